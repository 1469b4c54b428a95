memgate_tls = OpenSSL::SSL::SSLContext.new
memgate_tls.add_certificate(OpenSSL::X509::Certificate.new(File.read("@CERTIFICATE_FILE@")),
                            OpenSSL::PKey.read(File.read("@KEY_FILE@")))
memgate_tls.set_params(ca_file: "@CA_FILE@")
config.cache_store = :mem_cache_store, "@ENDPOINT@", { ssl_context: memgate_tls }
