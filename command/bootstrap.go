package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/tierkeeper/tierkeeper/mtls"
	"github.com/tierkeeper/tierkeeper/xds/envoy"
)

// bootstrapFile is what Envoy starts from, in the directory of --dir.
const bootstrapFile = "envoy.yaml"

type bootstrapOptions struct {
	gateway, node        string
	xds, service         string
	xdsName, serviceName string
	files                mtls.Files
	dir, envoyDir        string
	output               format
}

func newBootstrap() *cobra.Command {
	var o bootstrapOptions
	cmd := &cobra.Command{
		Use:   "bootstrap --gateway NAMESPACE/NAME --xds HOST:PORT --service HOST:PORT",
		Short: "Write what an Envoy of a QuotaGateway starts from",
		Long: `Bootstrap writes the file from which an Envoy of one QuotaGateway starts: which gateway it serves, and where it is told the
rest. The Envoy gets its listeners, routes, backends and secrets over xDS, and asks the rate-limit service.

An Envoy on another machine than those servers shows them a certificate, and demands one of them, over TLS 1.3. Paths of
--cert, --key and --ca are those where Envoy runs, and the files need not be there yet. Envoy takes certificates that are
renewed, without a restart, only by files beside the bootstrap; --dir writes all of them.`,
		Example: `  # For an Envoy on the machine of its servers.
  {{name}} bootstrap --gateway default/main --xds 127.0.0.1:8080 --service 127.0.0.1:8081 > envoy.yaml
  envoy -c envoy.yaml --disable-hot-restart

  # In an init container, into a volume that Envoy's container mounts at the same path.
  {{name}} bootstrap --gateway ai/main --xds tierkeeper-xds.tierkeeper:8080 --service tierkeeper-ratelimit.tierkeeper:8081 \
    --cert /certs/tls.crt --key /certs/tls.key --ca /certs/ca.crt --dir /etc/envoy

  # For a ConfigMap.
  {{name}} bootstrap --gateway ai/main --xds tierkeeper-xds.tierkeeper:8080 --service tierkeeper-ratelimit.tierkeeper:8081 \
    --cert /certs/tls.crt --key /certs/tls.key --ca /certs/ca.crt --dir out --envoy-dir /etc/envoy --node main
  kubectl create configmap main-envoy --from-file out`,
		Args:    flagsOnly,
		PreRunE: func(*cobra.Command, []string) error { return o.check() },
		RunE:    work(func(cmd *cobra.Command, _ []string) error { return o.run(cmd.OutOrStdout()) }),
	}
	o.addFlags(cmd)
	return cmd
}

func (o *bootstrapOptions) addFlags(cmd *cobra.Command) {
	o.output.addFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.gateway, "gateway", "", "QuotaGateway that the Envoy serves, as NAMESPACE/NAME")
	flags.StringVar(&o.node, "node", "", "how status and logs call this Envoy (default: the name of this machine)")
	flags.StringVar(&o.xds, "xds", "", "where configuration comes from, as host:port; every address of a name is a replica")
	flags.StringVar(&o.service, "service", "", "where the rate-limit service is, as host:port; every address of a name is a replica")
	flags.StringVar(&o.xdsName, "xds-server-name", "", "name that the certificate at --xds must be for (default: the host of --xds)")
	flags.StringVar(&o.serviceName, "service-server-name", "", "name that the certificate at --service must be for (default: the host of --service)")
	flags.StringVar(&o.files.Cert, "cert", "", "file with the Envoy's certificate in PEM, where Envoy runs")
	flags.StringVar(&o.files.Key, "key", "", "file with its private key in PEM, in the directory of --cert")
	flags.StringVar(&o.files.CA, "ca", "", "file with the authorities of the servers' certificates in PEM, where Envoy runs")
	flags.StringVar(&o.dir, "dir", "", "directory to write "+bootstrapFile+" and what belongs beside it into, instead of printing it")
	flags.StringVar(&o.envoyDir, "envoy-dir", "", "what --dir is called where Envoy runs (default: the same)")
	for _, name := range []string{"cert", "key", "ca"} {
		must(cmd.MarkFlagFilename(name))
	}
	must(cmd.MarkFlagDirname("dir"))
	must(cmd.MarkFlagDirname("envoy-dir"))
	cmd.MarkFlagsMutuallyExclusive("dir", "output")
}

// check finds what makes no sense. What is where Envoy runs cannot be looked at from here.
func (o *bootstrapOptions) check() error {
	if namespace, name, ok := strings.Cut(o.gateway, "/"); !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return errors.New("flag --gateway is missing or incomplete; it names a QuotaGateway as NAMESPACE/NAME")
	}
	for _, server := range []struct{ flag, address string }{{"--xds", o.xds}, {"--service", o.service}} {
		if err := o.checkServer(server.flag, server.address); err != nil {
			return err
		}
	}
	if err := o.files.Complete(); err != nil {
		return err
	}
	if !o.files.Given() {
		return nil
	}
	return o.checkPaths()
}

func (o *bootstrapOptions) checkServer(flag, address string) error {
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" || port == "0" {
		return fmt.Errorf("%s is missing or incomplete; it says as host:port where the server is", flag)
	}
	if _, err := envoy.SplitAddress(address); err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	if err := o.files.CheckAddress(address); err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

func (o *bootstrapOptions) checkPaths() error {
	if o.dir == "" {
		return errors.New("--dir is missing: with certificates Envoy needs files beside its bootstrap; name the directory for all of them")
	}
	for _, file := range []struct{ flag, path string }{{"--cert", o.files.Cert}, {"--key", o.files.Key}, {"--ca", o.files.CA}, {"--envoy-dir", o.envoyDir}} {
		if file.path != "" && !path.IsAbs(file.path) {
			return fmt.Errorf("%s %s is not absolute; give the whole path, as it is where Envoy runs", file.flag, file.path)
		}
	}
	if path.Dir(o.files.Cert) != path.Dir(o.files.Key) {
		return errors.New("--cert and --key are in different directories; put them into one, which Envoy watches for both")
	}
	return nil
}

func (o *bootstrapOptions) run(stdout io.Writer) error {
	servers, err := o.servers()
	if err != nil {
		return err
	}
	if o.node == "" {
		if o.node, err = os.Hostname(); err != nil {
			return fmt.Errorf("finding the name of this machine (or name the Envoy with --node): %w", err)
		}
	}
	bootstrap := envoy.Bootstrap(parseName(o.gateway), o.node, servers)
	if o.dir == "" {
		return printMessage(stdout, o.output, bootstrap)
	}
	files := map[string]proto.Message{bootstrapFile: bootstrap}
	if servers.TLS != nil {
		for name, content := range servers.TLS.SecretFiles() {
			files[name] = content
		}
	}
	return o.write(stdout, files)
}

func (o *bootstrapOptions) servers() (s envoy.Servers, err error) {
	if s.XDS, err = envoy.SplitAddress(o.xds); err != nil {
		return s, err
	}
	if s.Service, err = envoy.SplitAddress(o.service); err != nil {
		return s, err
	}
	if o.envoyDir == "" && o.dir != "" {
		if o.envoyDir, err = filepath.Abs(o.dir); err != nil {
			return s, fmt.Errorf("finding the directory of --dir: %w", err)
		}
	}
	if o.files.Given() {
		s.TLS = &envoy.ServersTLS{
			Cert: o.files.Cert, Key: o.files.Key, CA: o.files.CA, Directory: o.envoyDir, XDSName: o.xdsName, ServiceName: o.serviceName,
		}
	}
	return s, nil
}

// write makes the files. Whoever may see the directory may see them: there is nothing secret in them.
func (o *bootstrapOptions) write(stdout io.Writer, files map[string]proto.Message) error {
	if err := os.MkdirAll(o.dir, 0o755); err != nil { //nolint:gosec // Envoy may run as another user.
		return fmt.Errorf("making the directory of --dir: %w", err)
	}
	for name, content := range files {
		text, err := messageYAML(content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(o.dir, name), text, 0o644); err != nil { //nolint:gosec // Envoy may run as another user.
			return fmt.Errorf("writing into the directory of --dir: %w", err)
		}
	}
	_, err := fmt.Fprintf(stdout, "Start the Envoy of QuotaGateway %s with: envoy -c %s --disable-hot-restart\n", o.gateway, path.Join(o.envoyDir, bootstrapFile))
	return err
}

// printMessage prints a message as Envoy reads it, in YAML unless JSON is asked for.
func printMessage(w io.Writer, f format, m proto.Message) error {
	content, err := protojson.Marshal(m)
	if err != nil {
		return fmt.Errorf("writing the bootstrap: %w", err)
	}
	if f == formatText {
		f = formatYAML
	}
	return printData(w, f, json.RawMessage(content))
}

func messageYAML(m proto.Message) ([]byte, error) {
	content, err := protojson.Marshal(m)
	if err == nil {
		content, err = yaml.JSONToYAML(content)
	}
	if err != nil {
		return nil, fmt.Errorf("writing what Envoy reads: %w", err)
	}
	return content, nil
}
