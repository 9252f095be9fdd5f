package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

func newUpstream() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "upstream",
		Short: "Serve a provider that answers at once",
		Args:  cobra.NoArgs,
		RunE:  work(func(cmd *cobra.Command) error { return serveUpstream(cmd.Context(), address) }),
	}
	cmd.Flags().StringVar(&address, "address", "127.0.0.1:8090", "address to listen on")
	return cmd
}

// answered is a chat completion with what it has used.
const answered = `{"id":"chatcmpl-1","object":"chat.completion","created":1790000000,"model":"gpt-5-mini",` +
	`"choices":[{"index":0,"message":{"role":"assistant","content":"Hello. What can I do for you?"},"finish_reason":"stop"}],` +
	`"usage":{"prompt_tokens":412,"completion_tokens":9,"total_tokens":421}}`

func serveUpstream(ctx context.Context, address string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening (choose where with --address): %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, answered)
	})}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}
