// Command ollama serves Ollama's own API, which pulls as `ollama pull` does, without the programs that run models.
package main

import (
	"log"
	"net"
	"os"

	"github.com/ollama/ollama/server"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err == nil {
		err = server.Serve(listener)
	}
	log.Fatal(err)
}
