package kube_test

import (
	"context"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tierkeeper/tierkeeper/xds/feed/feedv1"
)

const (
	feedType   = "type.googleapis.com/tierkeeper.feed.v1.Policy"
	feedMethod = "/tierkeeper.feed.v1.PolicyDiscoveryService/DeltaPolicies"
)

// refuse follows the operator as a service of an older version would, which can put everything in force but one resource. It ends
// with the test, or when leave is called.
func refuse(t *testing.T, operator, node, resource, words string) (leave func()) {
	t.Helper()
	refusals, err := anypb.New(&feedv1.Refusals{Refusals: []*feedv1.Refusal{{Name: resource, Words: words}}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(operator, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, feedMethod)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(&discoveryv3.DeltaDiscoveryRequest{
		Node: &corev3.Node{Id: node}, TypeUrl: feedType, ResourceNamesSubscribe: []string{"*"},
	}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			var told discoveryv3.DeltaDiscoveryResponse
			if stream.RecvMsg(&told) != nil {
				return
			}
			answer := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: feedType, ResponseNonce: told.GetNonce()}
			if told.GetSystemVersionInfo() != "" {
				answer.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: words, Details: []*anypb.Any{refusals}}
			}
			if stream.SendMsg(answer) != nil {
				return
			}
		}
	}()
	leave = func() {
		cancel()
		<-ended
		_ = conn.Close()
	}
	t.Cleanup(leave)
	return leave
}
