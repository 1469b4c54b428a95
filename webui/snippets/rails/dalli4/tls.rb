memgate_tls = OpenSSL::SSL::SSLContext.new
memgate_tls.set_params(ca_file: Rails.root.join("@CA_FILE@").to_s)
config.cache_store = :mem_cache_store, "@ENDPOINT@",
  { protocol: :binary, username: "@USERNAME@", password: "@PASSWORD@", ssl_context: memgate_tls }
