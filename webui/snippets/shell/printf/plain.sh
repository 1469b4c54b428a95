printf 'set auth 0 0 49\r\n%s %s\r\nset hello 0 60 5\r\nworld\r\nget hello\r\nquit\r\n' \
  '@USERNAME@' '@PASSWORD@' | nc @HOST@ @PORT@
