config.cache_store = :mem_cache_store, "@ENDPOINT@",
  { protocol: :binary, username: "@USERNAME@", password: "@PASSWORD@" }
