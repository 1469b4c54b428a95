<?php
// php-memcached (binary protocol through libmemcached, SASL): use | miss | denied.
declare(strict_types=1);

[, $scenario, $endpoint, $username, $password] = $argv;
$sizes = array_map('intval', array_slice($argv, 5));
[$host, $port] = [substr($endpoint, 0, strrpos($endpoint, ':')), (int) substr(strrchr($endpoint, ':'), 1)];

function connect(): Memcached
{
    global $host, $port, $username, $password;
    $client = new Memcached();
    $client->setOptions([
        Memcached::OPT_BINARY_PROTOCOL => true,
        Memcached::OPT_COMPRESSION => false,
        Memcached::OPT_CONNECT_TIMEOUT => 10_000,
        Memcached::OPT_POLL_TIMEOUT => 10_000,
    ]);
    $client->setSaslAuthData($username, $password);
    $client->addServer($host, $port);
    return $client;
}

function check(bool $holds, string $what): void
{
    global $client;
    if (!$holds) {
        fwrite(STDERR, "$what: " . $client->getResultMessage() . "\n");
        exit(1);
    }
}

/** It found, or did, nothing because of this. */
function expect_failure(mixed $result, int $code, string $what): void
{
    global $client;
    check($result === false && $client->getResultCode() === $code, $what);
}

function everyOperation(Memcached $client): void
{
    check($client->flush(), 'flush');
    expect_failure($client->get('a'), Memcached::RES_NOTFOUND, 'get of nothing');
    foreach (['text', 15, 2.5, true, ['a' => [1, null]], str_repeat('x', 100_000)] as $value) {
        check($client->set('a', $value) && $client->get('a') === $value, 'set and get of ' . gettype($value));
    }
    expect_failure($client->add('a', 'x'), Memcached::RES_DATA_EXISTS, 'add of an existing key');
    check($client->add('b', 'new') && $client->get('b') === 'new', 'add');
    expect_failure($client->replace('nothing', 'x'), Memcached::RES_NOTFOUND, 'replace of nothing');
    check($client->replace('b', 'newer') && $client->append('b', '!') && $client->prepend('b', '>'), 'changes');
    $item = $client->get('b', null, Memcached::GET_EXTENDED);
    check($item['value'] === '>newer!' && $item['cas'] > 0, 'get with cas');
    check($client->cas($item['cas'], 'b', 'newest'), 'cas');
    expect_failure($client->cas($item['cas'], 'b', 'no'), Memcached::RES_DATA_EXISTS, 'cas of a changed item');
    check($client->touch('b', 1000) && $client->get('b') === 'newest', 'touch');
    expect_failure($client->touch('nothing', 1000), Memcached::RES_NOTFOUND, 'touch of nothing');
    check($client->delete('b'), 'delete');
    expect_failure($client->delete('b'), Memcached::RES_NOTFOUND, 'delete of nothing');
    check($client->increment('n', 5, 7, 1000) === 7 && $client->increment('n', 5) === 12, 'increment');
    check($client->decrement('n', 2) === 10 && $client->decrement('n', 100) === 0, 'decrement');
    $many = [];
    foreach (range(0, 99) as $number) {
        $many["multi-$number"] = "value $number";
    }
    check($client->setMulti($many, 1000), 'setMulti');
    check($client->getMulti([...array_keys($many), 'nothing'], Memcached::GET_PRESERVE_ORDER)
        === [...$many, 'nothing' => null], 'getMulti');
    check(count(array_filter($client->deleteMulti(array_keys($many)), fn ($done) => $done === true)) === 100, 'deleteMulti');
    check($client->getMulti(array_keys($many)) === [], 'all are gone');
    check(count($client->getVersion()) === 1, 'version');
    $statistics = current($client->getStats());
    check((int) $statistics['cmd_set'] > 0, 'stats');
}

function values(Memcached $client): void
{
    global $sizes, $scenario;
    foreach ($sizes as $size) {
        $key = "secret-key-php-$size";
        $value = substr(str_repeat("\0\r\nEND\r\n", intdiv($size, 8) + 1), 0, $size);
        if ($scenario === 'use') {
            check($client->set($key, $value) && $client->get($key) === $value, "$size bytes");
        } elseif ($scenario === 'miss') {
            expect_failure($client->get($key), Memcached::RES_NOTFOUND, "$key is there");
        } else {
            check($client->get($key) === false && $client->getResultCode() !== Memcached::RES_NOTFOUND, 'the token was accepted');
        }
    }
}

$client = connect();
if ($scenario === 'use') {
    everyOperation($client);
}
values($client);
