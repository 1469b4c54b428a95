package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"os"

	"github.com/bradfitz/gomemcache/memcache"
)

func main() {
	ca, err := os.ReadFile("@CA_FILE@")
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	certificate, err := tls.LoadX509KeyPair("@CERTIFICATE_FILE@", "@KEY_FILE@")
	if err != nil {
		log.Fatal(err)
	}
	dialer := &tls.Dialer{Config: &tls.Config{
		ServerName:   "@HOST@",
		RootCAs:      roots,
		Certificates: []tls.Certificate{certificate},
	}}
	cache := memcache.New("@ENDPOINT@")
	cache.DialContext = dialer.DialContext

	if err := cache.Set(&memcache.Item{Key: "hello", Value: []byte("world"), Expiration: 60}); err != nil {
		log.Fatal(err)
	}
	item, err := cache.Get("hello")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(item.Value))
}
