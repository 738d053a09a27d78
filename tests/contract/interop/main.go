// Calls a CRI server the way Go clients do, in all the ways of naming a Unix socket: interop <socket>
//
// tests/cri/interop.rs runs it. Prints nothing and ends with 0 if all is well.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	socket := os.Args[1]
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	})
	failed := false
	for _, way := range []struct {
		name, target string
		options      []grpc.DialOption
	}{
		{"as kubelets and crictl do", "passthrough:///" + socket, []grpc.DialOption{dial, grpc.WithAuthority("localhost")}},
		{"by URL", "unix://" + socket, nil},
		{"by path", "unix:" + socket, nil},
		{"with the path as authority", "passthrough:///" + socket, []grpc.DialOption{dial}},
		{"with an escaped path as authority", "passthrough:///x", []grpc.DialOption{dial, grpc.WithAuthority("%2Frun%2Forlop.sock")}},
		{"with a long authority", "passthrough:///x", []grpc.DialOption{dial, grpc.WithAuthority(strings.Repeat("/run", 60))}},
	} {
		if err := talk(way.target, way.options); err != nil {
			failed = true
			fmt.Printf("%s: %v\n", way.name, err)
		}
	}
	if failed {
		os.Exit(1)
	}
}

// talk makes enough calls, with headers that differ, for the table of the header compression to overflow often.
func talk(target string, options []grpc.DialOption) error {
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return err
	}
	defer conn.Close()
	runtime := cri.NewRuntimeServiceClient(conn)
	for i := range 300 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second+time.Duration(i)*time.Millisecond)
		ctx = metadata.AppendToOutgoingContext(ctx, "x-call", fmt.Sprintf("call-%d-%s", i, strings.Repeat("z", i)))
		version, err := runtime.Version(ctx, &cri.VersionRequest{Version: "0.1.0"})
		cancel()
		if err != nil {
			return fmt.Errorf("Version, call %d: %w", i, err)
		}
		if version.RuntimeName != "orlop" || version.RuntimeApiVersion != "v1" || version.Version == "" || version.RuntimeVersion == "" {
			return fmt.Errorf("Version: %v", version)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	stream, err := runtime.StreamPodSandboxes(ctx, &cri.StreamPodSandboxesRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented || err == io.EOF {
		return fmt.Errorf("StreamPodSandboxes: %v, not Unimplemented", err)
	}
	if _, err := runtime.StartContainer(ctx, &cri.StartContainerRequest{}); status.Code(err) != codes.InvalidArgument {
		return fmt.Errorf("StartContainer of nothing: %v, not InvalidArgument", err)
	}
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "large"},
		Image:    &cri.ImageSpec{Image: "busybox"},
		Envs:     []*cri.KeyValue{{Key: "RAW", Value: []byte{0xff, 0xfe}}},
	}
	for i := range 60 {
		config.Envs = append(config.Envs, &cri.KeyValue{Key: fmt.Sprintf("V%d", i), Value: []byte(strings.Repeat("x", 100_000))})
	}
	created, err := runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: "pod", Config: config})
	if err != nil || created.ContainerId == "" {
		return fmt.Errorf("CreateContainer with 6 MB: %v, %v", created, err)
	}
	return nil
}
