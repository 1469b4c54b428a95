with app.app_context():
    cache.set("hello", "world", timeout=60)
    print(cache.get("hello"))
