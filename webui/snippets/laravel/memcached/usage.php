use Illuminate\Support\Facades\Cache;

Cache::put("hello", "world", 60);
echo Cache::get("hello"), PHP_EOL;
