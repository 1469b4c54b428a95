<?php
$cache = new Memcache();
$cache->addServer("@HOST@", @PORT@);

$cache->set("hello", "world", 0, 60);
echo $cache->get("hello"), PHP_EOL;
