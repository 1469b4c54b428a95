require "dalli"
require "openssl"

tls = OpenSSL::SSL::SSLContext.new
tls.set_params(ca_file: "@CA_FILE@")
cache = Dalli::Client.new("@ENDPOINT@", protocol: :binary, ssl_context: tls,
                          username: "@USERNAME@", password: "@PASSWORD@")

cache.set("hello", "world", 60)
puts cache.get("hello")
