require "dalli"

cache = Dalli::Client.new("@ENDPOINT@", protocol: :binary,
                          username: "@USERNAME@", password: "@PASSWORD@")

cache.set("hello", "world", 60)
puts cache.get("hello")
