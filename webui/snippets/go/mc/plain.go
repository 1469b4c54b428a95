package main

import (
	"fmt"
	"log"

	"github.com/memcachier/mc/v3"
)

func main() {
	cache := mc.NewMC("@ENDPOINT@", "@USERNAME@", "@PASSWORD@")
	defer cache.Quit()

	if _, err := cache.Set("hello", "world", 0, 60, 0); err != nil {
		log.Fatal(err)
	}
	value, _, _, err := cache.Get("hello")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(value)
}
