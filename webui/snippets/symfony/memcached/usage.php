use Symfony\Contracts\Cache\CacheInterface;
use Symfony\Contracts\Cache\ItemInterface;

// CacheInterface $cache is a parameter of your service's constructor.
echo $cache->get("hello", function (ItemInterface $item) {
    $item->expiresAfter(60);
    return "world";
}), PHP_EOL;
