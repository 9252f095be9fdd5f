package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/tierkeeper/tierkeeper/ratelimit"
)

// maxError is how much of an answer that is none of ours is shown, in bytes.
const maxError = 200

// A Client asks a Handler. Its errors say what its user can do.
type Client struct {
	base  string
	token string
}

// NewClient is for a handler at the address, a URL or host:port. The token may be empty.
func NewClient(address, token string) (*Client, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q is no address such as http://127.0.0.1:9000", address)
	}
	return &Client{base: u.Scheme + "://" + u.Host, token: token}, nil
}

// Blocks lists the blocks in force.
func (c *Client) Blocks(ctx context.Context) ([]ratelimit.Block, error) {
	var list blockList
	err := c.do(ctx, http.MethodGet, blocksPath, &list)
	return list.Blocks, err
}

// Lift ends a block.
func (c *Client) Lift(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, blocksPath+"/"+url.PathEscape(id), nil)
}

// Shadow lists what would have been refused since the service began, the most frequent first, and how many refusals more there
// were that it does not tell apart.
func (c *Client) Shadow(ctx context.Context) (list []ratelimit.Shadow, more int64, err error) {
	var answer shadowList
	err = c.do(ctx, http.MethodGet, shadowPath, &answer)
	return answer.Shadow, answer.More, err
}

func (c *Client) do(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, http.NoBody)
	if err != nil {
		return fmt.Errorf("asking %s: %w", c.base, err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking the service (it prints the address behind \"Admin:\" when it starts): %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= http.StatusMultipleChoices {
		return refusal(resp)
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("reading the answer of %s, which may be no admin address: %w", c.base, err)
	}
	return nil
}

// refusal words an answer that is no success. A gateway's own refusals have a message as well, but more beside it.
func refusal(resp *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	var told failed
	strict := json.NewDecoder(bytes.NewReader(body))
	strict.DisallowUnknownFields()
	if strict.Decode(&told) != nil || told.Error.Message == "" {
		return fmt.Errorf("%s answers %s, and may be no admin address: %.*s", resp.Request.URL.Host, resp.Status, maxError, body)
	}
	return errors.New(told.Error.Message)
}
