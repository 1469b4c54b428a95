require "dalli"
require "openssl"

tls = OpenSSL::SSL::SSLContext.new
tls.add_certificate(OpenSSL::X509::Certificate.new(File.read("@CERTIFICATE_FILE@")),
                    OpenSSL::PKey.read(File.read("@KEY_FILE@")))
tls.set_params(ca_file: "@CA_FILE@")
cache = Dalli::Client.new("@ENDPOINT@", ssl_context: tls)

cache.set("hello", "world", 60)
puts cache.get("hello")
