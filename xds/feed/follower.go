package feed

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tierkeeper/tierkeeper/policy"
	"github.com/tierkeeper/tierkeeper/xds/feed/feedv1"
)

// A follower holds what a client was told.
type follower struct {
	*ClientConfig
	obey func(*policy.Table)

	assembly *policy.Assembly
	versions map[string]version // of the resources that are held, by name; zero for one of which the last was refused
	refused  map[string]string  // why a resource could not be read, by name
	reported map[string]string  // what could not be put in force at the last Table
	stale    bool               // something was told since the last Table
	version  string             // of the last consistent set

	cache  *cache            // nil: none
	unkept map[string]record // what is to be written
	status Status
	warned bool // that the connection is down
}

func newFollower(c *ClientConfig, obey func(*policy.Table)) *follower {
	return &follower{
		ClientConfig: c, obey: obey, assembly: policy.NewAssembly(),
		versions: map[string]version{}, refused: map[string]string{}, unkept: map[string]record{}, status: Status{Down: c.Clock()},
	}
}

// greet tells the server what is held, so that it tells the difference.
func (f *follower) greet(stream clientStream) error {
	r := &request{TypeUrl: typeURL, Node: &corev3.Node{Id: f.Node}, InitialResourceVersions: map[string]string{}}
	size := 0
	for name, v := range f.versions {
		r.InitialResourceVersions[name] = v.String()
		if size += len(name) + 2*len(v) + 8; size < maxGreeting {
			continue
		}
		if err := stream.Send(r); err != nil {
			return err
		}
		r, size = &request{TypeUrl: typeURL, InitialResourceVersions: map[string]string{}}, 0
	}
	r.ResourceNamesSubscribe = []string{everything}
	return stream.Send(r)
}

// take does what a response says, and makes the ACK. Nothing is in force before a consistent set is complete.
func (f *follower) take(ctx context.Context, r *response) *request {
	for _, name := range r.GetRemovedResources() {
		f.remove(name)
	}
	for _, res := range r.GetResources() {
		f.set(res.GetName(), parseVersion(res.GetVersion()), res.GetResource())
	}
	ack := &request{TypeUrl: typeURL, ResponseNonce: r.GetNonce()}
	if complete(r) {
		f.putInForce(ctx, r.GetSystemVersionInfo())
		ack.ErrorDetail = complaint(f.reported)
	}
	return ack
}

func (f *follower) remove(name string) {
	f.stale = true
	delete(f.versions, name)
	delete(f.refused, name)
	f.note(name, record{gone: true})
	if n, err := parseName(name); err == nil {
		f.assembly.Delete(n)
	}
}

func (f *follower) set(name string, v version, content *anypb.Any) {
	f.stale = true
	if err := f.read(name, content); err != nil {
		f.refused[name], f.versions[name] = err.Error(), version{}
		f.note(name, record{content: content.GetValue(), refused: true})
		return
	}
	delete(f.refused, name)
	f.versions[name] = v
	f.note(name, record{content: content.GetValue()})
}

func (f *follower) note(name string, r record) {
	if f.cache != nil {
		f.unkept[name] = r
	}
}

func (f *follower) read(name string, content *anypb.Any) error {
	n, err := parseName(name)
	if err != nil {
		return err
	}
	if t := content.GetTypeUrl(); t != typeURL {
		return fmt.Errorf("its type is %q, which is not known here", t)
	}
	part, err := decode(n, content.GetValue())
	if part != nil {
		f.assembly.Set(part)
	}
	return err
}

// putInForce obeys the Table of all that was told, unless nothing was since the last one.
func (f *follower) putInForce(ctx context.Context, version string) {
	f.version = version
	if !f.stale && f.status.Table {
		return
	}
	table, missing := f.assembly.Table(version)
	wrong := map[string]string{}
	for name, why := range missing {
		wrong[resourceName(name)] = why
	}
	maps.Copy(wrong, f.refused) // What cannot be read says more than what it lacks for that.
	if len(wrong) > 0 {
		table, _ = f.assembly.Table(fmt.Sprintf("%s-without-%d", version, len(wrong)))
	}
	f.obey(table)
	f.stale = false
	f.complain(ctx, wrong)
	f.reported = wrong
	if !f.status.Table {
		f.status.Table = true
		f.Tell(f.status)
	}
}

// complain logs what could not be put in force and was not logged before.
func (f *follower) complain(ctx context.Context, wrong map[string]string) {
	const most = 10
	n := 0
	for _, name := range slices.Sorted(maps.Keys(wrong)) {
		if f.reported[name] == wrong[name] {
			continue
		}
		if n++; n <= most {
			f.Log.ErrorContext(ctx, "a part of the policy cannot be put in force: what was known of it before holds", "part", name, "error", wrong[name])
		}
	}
	if n > most {
		f.Log.ErrorContext(ctx, "more parts of the policy cannot be put in force", "parts", n-most)
	}
}

// complaint tells the server what could not be put in force; nil: everything is.
func complaint(wrong map[string]string) *status.Status {
	if len(wrong) == 0 {
		return nil
	}
	list := &feedv1.Refusals{}
	for _, name := range slices.Sorted(maps.Keys(wrong)) {
		if len(list.Refusals) == maxRefusals {
			break
		}
		list.Refusals = append(list.Refusals, &feedv1.Refusal{Name: name, Words: brief(wrong[name])})
	}
	s := &status.Status{
		Code: int32(codes.InvalidArgument), Message: fmt.Sprintf("%d parts cannot be put in force", len(wrong)),
	}
	if detail, err := anypb.New(list); err == nil {
		s.Details = []*anypb.Any{detail}
	}
	return s
}

// brief cuts words short, which can quote what was told.
func brief(words string) string {
	if len(words) > maxWords {
		words = words[:maxWords] + "…"
	}
	return strings.ToValidUTF8(words, "�")
}

// up and down note how the connection is, and log what changes.
func (f *follower) up(ctx context.Context) {
	if f.status.Down.IsZero() {
		return
	}
	f.Log.InfoContext(ctx, "the policy server is followed", "address", f.Address)
	f.status.Down, f.warned = time.Time{}, false
	f.Tell(f.status)
}

func (f *follower) down(ctx context.Context, err error) {
	level := slog.LevelDebug
	if !f.warned {
		level, f.warned = slog.LevelWarn, true
	}
	f.Log.Log(ctx, level, "the policy server is not followed: what it told last holds", "address", f.Address, "error", err)
	if f.status.Down.IsZero() {
		f.status.Down = f.Clock()
		f.Tell(f.status)
	}
}
