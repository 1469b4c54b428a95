<?php
// What php-memcached's own tests ask of a server, and more: printed for a comparison, a JSON list of name and result a line.
declare(strict_types=1);

[, $endpoint] = $argv;
[$username, $password] = [$argv[2] ?? null, $argv[3] ?? null];
[$host, $port] = [substr($endpoint, 0, strrpos($endpoint, ':')), (int) substr(strrchr($endpoint, ':'), 1)];

function connect(array $options = []): Memcached
{
    global $host, $port, $username, $password;
    $client = new Memcached();
    $client->setOptions($options + [
        Memcached::OPT_BINARY_PROTOCOL => true,
        Memcached::OPT_CONNECT_TIMEOUT => 10_000,
        Memcached::OPT_POLL_TIMEOUT => 10_000,
    ]);
    if ($username !== null) {
        $client->setSaslAuthData($username, $password);
    }
    $client->addServer($host, $port);
    return $client;
}

/** A result with the code that explains it. */
function told(Memcached $client, mixed $result): array
{
    return [$result, $client->getResultCode()];
}

function until(callable $holds): bool
{
    for ($deadline = microtime(true) + 10; !$holds() && microtime(true) < $deadline;) {
        usleep(50_000);
    }
    return $holds();
}

/** Without what differs from run to run. */
function values(array|false $items): array|false
{
    return $items === false ? false : array_map(fn ($item) => $item['value'], $items);
}

$cases = [
    'values_and_types' => function (Memcached $c) {
        $values = ['text', '', 'olé', 15, -1, PHP_INT_MAX, 2.5, true, false, ['a' => [1, null]], (object) ['b' => 1], null];
        return array_map(fn ($value) => [$c->set('key', $value), $c->get('key'), $c->getResultCode()], $values);
    },
    'nothing_there' => fn (Memcached $c) => [
        told($c, $c->get('none')), told($c, $c->delete('none')), told($c, $c->getMulti(['a', 'b'])),
        told($c, $c->replace('none', 1)), told($c, $c->touch('none', 1)),
    ],
    'add_and_replace' => fn (Memcached $c) => [
        told($c, $c->add('key', 1)), told($c, $c->add('key', 2)), $c->get('key'), told($c, $c->replace('key', 3)), $c->get('key'),
    ],
    'append_and_prepend' => function (Memcached $c) {
        $c->setOption(Memcached::OPT_COMPRESSION, false);
        $none = [told($c, $c->append('none', 'x')), told($c, $c->prepend('none', 'x'))];
        $c->set('key', 'middle');
        return [$none, $c->append('key', '-end'), $c->prepend('key', 'start-'), $c->get('key')];
    },
    'compare_and_swap' => function (Memcached $c) {
        $c->set('key', 10);
        $item = $c->get('key', null, Memcached::GET_EXTENDED);
        $done = told($c, $c->cas($item['cas'], 'key', 11));
        return [$item['value'], $done, told($c, $c->cas($item['cas'], 'key', 12)), $c->get('key'), told($c, $c->cas(1.0, 'none', 1))];
    },
    'compare_and_swap_of_many' => function (Memcached $c) {
        $c->setMulti(['a' => 1, 'b' => 2]);
        $items = $c->getMulti(['a', 'b', 'none'], Memcached::GET_EXTENDED);
        $swapped = array_map(fn ($key) => $c->cas($items[$key]['cas'], $key, $items[$key]['value'] * 10), ['a', 'b']);
        return [values($items), $swapped, $c->getMulti(['a', 'b'])];
    },
    'compare_and_swap_too_large' => function (Memcached $c) {
        $c->setOption(Memcached::OPT_COMPRESSION, false);
        $c->set('key', 'old');
        $item = $c->get('key', null, Memcached::GET_EXTENDED);
        return told($c, $c->cas($item['cas'], 'key', str_repeat('x', 2 << 20)));
    },
    'counters' => fn (Memcached $c) => [
        told($c, $c->increment('n')), $c->increment('n', 1, 41), $c->increment('n'), $c->increment('n', 5),
        $c->decrement('n', 7), $c->decrement('n', 1000), $c->decrement('m', 1, 9), $c->decrement('m'), told($c, $c->decrement('none')),
    ],
    'counter_of_a_word' => fn (Memcached $c) => [$c->set('n', 'word'), told($c, $c->increment('n'))],
    'counter_that_expires' => fn (Memcached $c) => [
        $c->increment('n', 1, 5, 1), $c->get('n'), until(fn () => $c->get('n') === false),
    ],
    'expired' => function (Memcached $c) {
        $c->set('key', 'value', 1);
        $c->set('past', 'value', -1);
        $c->set('later', 'value', time() + 1);
        return [$c->get('past'), $c->get('key'), until(fn () => $c->get('key') === false), until(fn () => $c->get('later') === false)];
    },
    'touched' => fn (Memcached $c) => [$c->set('key', 'v', 1), told($c, $c->touch('key', 1000)), $c->get('key')],
    'deleted' => fn (Memcached $c) => [
        $c->set('key', 1), told($c, $c->delete('key')), told($c, $c->delete('key')), $c->setMulti(['a' => 1, 'b' => 2]),
        $c->deleteMulti(['a', 'b', 'none']), $c->getMulti(['a', 'b']), $c->deleteMulti([]),
    ],
    'many_at_once' => function (Memcached $c) {
        $many = [];
        foreach (range(0, 999) as $number) {
            $many["key-$number"] = "value $number";
        }
        return [$c->setMulti($many, 1000), $c->getMulti([...array_keys($many), 'none']) == $many, count($c->deleteMulti(array_keys($many)))];
    },
    'order_of_many' => fn (Memcached $c) => [
        $c->setMulti(['a' => 1, 'c' => 3]),
        $c->getMulti(['c', 'b', 'a'], Memcached::GET_PRESERVE_ORDER),
        $c->getMulti([]), $c->getMulti(['a', 'a']), $c->getMulti([1, 'a']),
    ],
    'delayed' => function (Memcached $c) {
        $c->setMulti(['a' => 1, 'b' => 2]);
        $asked = $c->getDelayed(['a', 'b', 'none'], true);
        $found = [];
        while ($item = $c->fetch()) {
            $found[$item['key']] = $item['value'];
        }
        $end = $c->getResultCode();
        ksort($found);
        $c->getDelayed(['a', 'b']);
        return [$asked, $found, $end, count($c->fetchAll())];
    },
    'by_key' => fn (Memcached $c) => [
        $c->setByKey('server', 'key', 1), $c->getByKey('server', 'key'), $c->addByKey('server', 'key', 2), $c->replaceByKey('server', 'key', 3),
        $c->incrementByKey('server', 'key', 4), $c->getMultiByKey('server', ['key', 'none']), $c->touchByKey('server', 'key', 100),
        $c->deleteByKey('server', 'key'), told($c, $c->deleteByKey('server', 'key')),
    ],
    'with_a_prefix' => function (Memcached $c) {
        $prefixed = connect([Memcached::OPT_PREFIX_KEY => 'app:']);
        return [$prefixed->set('key', 1), $prefixed->get('key'), $c->get('app:key'), $prefixed->getMulti(['key', 'none'])];
    },
    'read_through_a_callback' => fn (Memcached $c) => [
        $c->get('key', function (Memcached $memc, string $key, mixed &$value, mixed &$expiration): bool {
            $value = "made for $key";
            $expiration = 100;
            return true;
        }),
        $c->get('key'),
    ],
    'compressed' => fn (Memcached $c) => array_map(function (int $type) use ($c): bool {
        $c->setOption(Memcached::OPT_COMPRESSION_TYPE, $type);
        $text = str_repeat('x', 100_000);
        return $c->set('key', $text) && $c->get('key') === $text;
    }, [Memcached::COMPRESSION_ZLIB, Memcached::COMPRESSION_FASTLZ]),
    'values_of_all_sizes' => function (Memcached $c) {
        $c->setOption(Memcached::OPT_COMPRESSION, false);
        return array_map(function (int $size) use ($c): bool {
            $value = substr(str_repeat("\0\r\nEND\r\n", intdiv($size, 8) + 1), 0, $size);
            return $c->set('key', $value) && $c->get('key') === $value;
        }, [0, 1, 1024, 2048, 2049, 65_536, 1_000_000]);
    },
    'too_large' => function (Memcached $c) {
        $c->setOption(Memcached::OPT_COMPRESSION, false);
        $c->set('key', 'old');
        return [told($c, $c->set('key', str_repeat('x', 2 << 20))), $c->set('key', 'new'), $c->get('key')];
    },
    'keys_that_are_checked' => fn (Memcached $c) => array_map(
        fn (string $key) => [told($c, $c->set($key, 1)), told($c, $c->get($key))],
        ['', str_repeat('k', 250), str_repeat('k', 251), 'two words', "line\nend", "tab\tkey", 'schlüssel'],
    ),
    'without_replies' => function (Memcached $c) {
        $quiet = connect([Memcached::OPT_NOREPLY => true]);
        $quiet->set('key', 1);
        return [until(fn () => $c->get('key') === 1)];
    },
    'buffered' => function (Memcached $c) {
        $buffered = connect([Memcached::OPT_BUFFER_WRITES => true]);
        foreach (range(0, 99) as $number) {
            $buffered->set("key-$number", $number);
        }
        return [$buffered->flushBuffers(), until(fn () => $c->get('key-99') === 99)];
    },
    'without_waiting' => function (Memcached $c) {
        $client = connect([Memcached::OPT_NO_BLOCK => true, Memcached::OPT_TCP_NODELAY => true]);
        return [$client->set('key', 1), $client->get('key')];
    },
    'user_flags' => fn (Memcached $c) => [
        $c->set('key', 1), $c->setOption(Memcached::OPT_USER_FLAGS, 42), $c->set('flagged', 'x'),
        $c->get('flagged', null, Memcached::GET_EXTENDED)['flags'],
    ],
    'flushed' => fn (Memcached $c) => [$c->set('key', 1), $c->flush(1000), $c->get('key'), $c->flush(), $c->get('key')],
    'statistics' => function (Memcached $c) {
        $stats = current($c->getStats());
        return [isset($stats['pid']), isset($stats['curr_items']), isset($stats['cmd_get'])];
    },
    'version' => fn (Memcached $c) => array_values($c->getVersion()),
    'again_after_quit' => fn (Memcached $c) => [$c->set('key', 1), $c->quit(), $c->get('key')],
    'cloned' => function (Memcached $c) {
        $c->set('key', 1);
        $other = clone $c;
        return [$other->get('key'), $other->set('key', 2), $c->get('key')];
    },
];

foreach ($cases as $name => $case) {
    $client = connect();
    $client->flush();
    try {
        $result = $case($client);
    } catch (Throwable $error) {
        $result = get_class($error) . ': ' . $error->getMessage();
    }
    echo json_encode([$name, var_export($result, true)], JSON_INVALID_UTF8_SUBSTITUTE), "\n";
}
