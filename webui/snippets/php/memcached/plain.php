<?php
$cache = new Memcached();
$cache->setOption(Memcached::OPT_BINARY_PROTOCOL, true);
$cache->setSaslAuthData("@USERNAME@", "@PASSWORD@");
$cache->addServer("@HOST@", @PORT@);

$cache->set("hello", "world", 60);
echo $cache->get("hello"), PHP_EOL;
