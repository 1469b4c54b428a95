Rails.cache.write("hello", "world", expires_in: 60)
puts Rails.cache.read("hello")
