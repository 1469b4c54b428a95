wp_cache_set("hello", "world", "", 60);
echo wp_cache_get("hello"), PHP_EOL;
