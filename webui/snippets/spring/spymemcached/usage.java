// MemcachedClient cache is a parameter of your component's constructor.
cache.set("hello", 60, "world").get();
System.out.println(cache.get("hello"));
