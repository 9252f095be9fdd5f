package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	bufferSize  = 64 << 10
	plenty      = 1 << 30 // of what the server may send before it is told that it was read
	tellRead    = 1 << 20 // bytes after which it is told
	firstWindow = 65535   // bytes that a server takes on a connection before it says more
)

// A connection is one client of the server. One goroutine receives; in an open loop another sends.
type connection struct {
	load   *Load
	conn   net.Conn
	in     *bufio.Reader
	framer *http2.Framer
	draw   *rand.Rand

	mu       sync.Mutex // holds for what follows; framer reads without it
	out      *bufio.Writer
	block    bytes.Buffer
	encoder  *hpack.Encoder
	decoder  *hpack.Decoder
	decoding *exchange            // whose header is being read
	under    map[uint32]*exchange // by stream
	free     []*exchange
	waiting  []*exchange // until the server takes more
	window   int64       // bytes that the server takes
	read     uint32      // bytes that it was not yet told of
	stream   uint32      // the next
	result   Result
	err      error
}

// An exchange is a call that waits for its answer.
type exchange struct {
	call   Call
	began  time.Time
	answer Answer
	// follows another, to which it belongs: it is not counted.
	follows bool
}

func (l *Load) connect(ctx context.Context, i int) (*connection, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", l.plan.Address)
	if err != nil {
		return nil, fmt.Errorf("connecting to the server: %w", err)
	}
	c := &connection{
		load: l, conn: conn, in: bufio.NewReaderSize(conn, bufferSize), out: bufio.NewWriterSize(conn, bufferSize),
		draw:  rand.New(rand.NewPCG(uint64(i), 1)), //nolint:gosec // Not negative, and a repeated run sends the same.
		under: map[uint32]*exchange{}, window: firstWindow, stream: 1,
	}
	c.framer = http2.NewFramer(c.out, c.in)
	c.framer.SetReuseFrames()
	c.encoder = hpack.NewEncoder(&c.block)
	c.decoder = hpack.NewDecoder(4096, c.field)
	_, _ = c.out.WriteString(http2.ClientPreface) // A writer that failed says so when it is flushed.
	_ = c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: plenty}, http2.Setting{ID: http2.SettingEnablePush})
	_ = c.framer.WriteWindowUpdate(0, plenty)
	return c, nil
}

// receive takes what the server sends until everything is answered. In a closed loop it is also who sends.
func (c *connection) receive() error {
	if c.load.plan.Rate == 0 {
		c.mu.Lock()
		for range max(c.load.plan.Outstanding/c.load.plan.Connections, 1) {
			c.begin(time.Now())
		}
		c.mu.Unlock()
	}
	for {
		done, err := c.flush()
		if done || err != nil {
			return err
		}
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return fmt.Errorf("reading from the server: %w", err)
		}
		if err := c.take(frame); err != nil {
			return err
		}
	}
}

// flush sends what was written, unless there is more to read first, and says whether there is nothing left to do.
func (c *connection) flush() (done bool, err error) {
	if c.in.Buffered() > 0 {
		return false, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Flush(); err != nil {
		return false, fmt.Errorf("writing to the server: %w", err)
	}
	return c.unanswered() == 0 && c.load.over(), nil
}

func (c *connection) take(frame http2.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		c.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			_ = c.framer.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.window += int64(f.Increment)
			c.sendWaiting()
		}
	case *http2.HeadersFrame:
		return c.header(f)
	case *http2.DataFrame:
		c.data(f)
	case *http2.RSTStreamFrame:
		c.finish(f.StreamID, "the server reset a stream: "+f.ErrCode.String())
	case *http2.GoAwayFrame:
		return fmt.Errorf("the server closes the connection: %v %s", f.ErrCode, f.DebugData())
	}
	return nil
}

func (c *connection) settings(f *http2.SettingsFrame) {
	if f.IsAck() {
		return
	}
	if size, ok := f.Value(http2.SettingHeaderTableSize); ok {
		c.encoder.SetMaxDynamicTableSizeLimit(size)
	}
	_ = c.framer.WriteSettingsAck()
}

func (c *connection) header(f *http2.HeadersFrame) error {
	if !f.HeadersEnded() {
		return errors.New("the server sends a header in several frames, which this client does not read")
	}
	c.decoding = c.under[f.StreamID]
	if _, err := c.decoder.Write(f.HeaderBlockFragment()); err != nil {
		return fmt.Errorf("reading a header: %w", err)
	}
	if f.StreamEnded() {
		c.finish(f.StreamID, "")
	}
	return nil
}

func (c *connection) field(f hpack.HeaderField) {
	if c.decoding == nil {
		return
	}
	switch f.Name {
	case ":status":
		c.decoding.answer.Status = f.Value
	case "grpc-status":
		c.decoding.answer.GRPCStatus = f.Value
	case "grpc-message":
		c.decoding.answer.Message = f.Value
	}
}

func (c *connection) data(f *http2.DataFrame) {
	if c.read += f.Length; c.read >= tellRead {
		_ = c.framer.WriteWindowUpdate(0, c.read)
		c.read = 0
	}
	if e := c.under[f.StreamID]; e != nil {
		e.answer.Body = append(e.answer.Body, f.Data()...)
	}
	if f.StreamEnded() {
		c.finish(f.StreamID, "")
	}
}

// finish counts an answer, or why there is none, and sends what comes next.
func (c *connection) finish(stream uint32, failure string) {
	e := c.under[stream]
	if e == nil {
		return
	}
	delete(c.under, stream)
	now := time.Now()
	outcome, follower := Failed, (*Call)(nil)
	if failure == "" {
		outcome, follower = c.load.plan.Read(&e.answer)
		failure = fmt.Sprintf("HTTP status %s, gRPC status %s %s", e.answer.Status, e.answer.GRPCStatus, e.answer.Message)
	}
	if c.load.counting.Load() && (!e.follows || outcome == Failed) {
		c.result.count(outcome, failure, now.Sub(e.began))
	}
	follows := e.follows
	c.free = append(c.free, e)
	switch {
	case follower != nil && !follows:
		c.send(*follower, now, true)
	case c.load.plan.Rate == 0:
		c.begin(now)
	}
}

// begin sends the next call of the plan, if there is one. It ought to be sent at a time.
func (c *connection) begin(at time.Time) {
	if c.load.mayBegin() {
		c.send(c.load.plan.Next(c.draw), at, false)
	}
}

func (c *connection) send(call Call, at time.Time, follows bool) {
	e := &exchange{}
	if last := len(c.free) - 1; last >= 0 {
		e, c.free = c.free[last], c.free[:last]
	}
	*e = exchange{call: call, began: at, follows: follows, answer: Answer{Body: e.answer.Body[:0]}}
	if len(c.waiting) > 0 || int64(len(call.Body)) > c.window {
		c.waiting = append(c.waiting, e)
		return
	}
	c.write(e)
}

func (c *connection) sendWaiting() {
	for len(c.waiting) > 0 && int64(len(c.waiting[0].call.Body)) <= c.window {
		c.write(c.waiting[0])
		c.waiting = c.waiting[1:]
	}
}

func (c *connection) write(e *exchange) {
	c.block.Reset()
	for _, f := range e.call.Header {
		_ = c.encoder.WriteField(f) // into memory
	}
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: c.stream, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: len(e.call.Body) == 0,
	})
	if len(e.call.Body) > 0 {
		_ = c.framer.WriteData(c.stream, true, e.call.Body)
	}
	c.window -= int64(len(e.call.Body))
	c.under[c.stream] = e
	c.stream += 2
}

// sendOnTime sends the share of the i-th connection in the plan's rate. The last call of a plan may be another connection's: who
// receives here may wait for nothing then.
func (c *connection) sendOnTime(i int) error {
	defer c.wakeIdle()
	every := time.Duration(float64(time.Second) / c.load.plan.Rate)
	due := time.Now().Add(time.Duration(i) * every)
	every *= time.Duration(c.load.plan.Connections)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !c.load.over() {
		select {
		case <-c.load.stopped:
			return nil
		case <-timer.C:
		}
		c.mu.Lock()
		for now := time.Now(); !due.After(now) && !c.load.over(); due = due.Add(every) {
			c.begin(due)
		}
		err := c.out.Flush()
		c.mu.Unlock()
		if err != nil {
			return fmt.Errorf("writing to the server: %w", err)
		}
		timer.Reset(time.Until(due))
	}
	return nil
}

// hurry gives the server a last while to answer.
func (c *connection) hurry() {
	_ = c.conn.SetReadDeadline(time.Now().Add(patience)) // One that is closed is read no more.
	c.wakeIdle()
}

// wakeIdle wakes who receives if there is nothing to wait for.
func (c *connection) wakeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unanswered() == 0 {
		_ = c.conn.SetReadDeadline(time.Now())
	}
}

func (c *connection) unanswered() int { return len(c.under) + len(c.waiting) }

// end tells why a connection has come to its end, if it ought not to have.
func (c *connection) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.err == nil && (c.unanswered() > 0 || !c.load.over()) {
		c.err = fmt.Errorf("%w (%d calls were not answered)", err, c.unanswered())
	}
}
