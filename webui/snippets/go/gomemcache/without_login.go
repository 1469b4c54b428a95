package main

import (
	"fmt"
	"log"

	"github.com/bradfitz/gomemcache/memcache"
)

func main() {
	cache := memcache.New("@ENDPOINT@")

	if err := cache.Set(&memcache.Item{Key: "hello", Value: []byte("world"), Expiration: 60}); err != nil {
		log.Fatal(err)
	}
	item, err := cache.Get("hello")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(item.Value))
}
