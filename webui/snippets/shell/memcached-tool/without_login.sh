printf 'set hello 0 60 5\r\nworld\r\nget hello\r\nquit\r\n' | nc @HOST@ @PORT@

memcached-tool @ENDPOINT@ stats
