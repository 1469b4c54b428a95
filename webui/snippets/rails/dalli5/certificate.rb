memgate_tls = OpenSSL::SSL::SSLContext.new
memgate_tls.add_certificate(OpenSSL::X509::Certificate.new(Rails.root.join("@CERTIFICATE_FILE@").read),
                            OpenSSL::PKey.read(Rails.root.join("@KEY_FILE@").read))
memgate_tls.set_params(ca_file: Rails.root.join("@CA_FILE@").to_s)
config.cache_store = :mem_cache_store, "@ENDPOINT@", { ssl_context: memgate_tls }
