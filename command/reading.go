package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tierkeeper/tierkeeper/controllers"
	"github.com/tierkeeper/tierkeeper/manifest"
	"github.com/tierkeeper/tierkeeper/policy"
)

// completionPatience is how long somebody waits who has pressed Tab.
const completionPatience = 3 * time.Second

// A reading is objects, and what is made of them.
type reading struct {
	table  *policy.Table
	where  string                     // they stand, as in "in manifests"
	within string                     // what of that was read, as in " in its namespace"; empty: all
	quotas []string                   // the names of all ApiKeyQuotas
	why    func(policy.Name) string   // an ApiKeyQuota is not accepted
	notes  func(policy.Name) []string // what else somebody should know who asks for it
}

func readDirectory(directory string) *reading {
	result := new(manifest.Loader).Load(directory)
	table, verdicts := policy.Compile(result.Input)
	report := newReport(result, verdicts)
	r := &reading{table: table, where: "in " + directory, why: report.whyNotAccepted, notes: func(policy.Name) []string { return nil }}
	for _, o := range report.Objects {
		if o.Kind == policy.KindQuota {
			r.quotas = append(r.quotas, o.fullName())
		}
	}
	if n := report.rejected() + len(report.Files); n > 0 {
		note := fmt.Sprintf("%s in %s; the compile command says what. Here, what is not accepted does not count.",
			plural(n, "manifest is not accepted", "manifests are not accepted"), directory)
		r.notes = func(policy.Name) []string { return []string{note} }
	}
	return r
}

// readCluster reads what counts in a namespace of a cluster. Whether its quotas are accepted says their status.
func readCluster(ctx context.Context, o *clusterOptions, namespace string) (*reading, error) {
	config, err := o.config()
	if err != nil {
		return nil, orDirectory(err)
	}
	c, err := client.New(config, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		return nil, fmt.Errorf("connecting to the cluster: %w", err)
	}
	seen, err := controllers.Once(ctx, c, namespace)
	switch {
	case apierrors.IsForbidden(err):
		return nil, fmt.Errorf("%w; ask for the ClusterRoles tierkeeper-plans and, in the namespace, view", err)
	case err != nil:
		return nil, err
	}
	return readSeen(seen), nil
}

// orDirectory names what needs no cluster.
func orDirectory(err error) error {
	return fmt.Errorf("%w; or name a directory of manifests with -f", err)
}

// readSeen compiles what was seen of a cluster. Status goes first: what is refused here and not there may only be hidden.
func readSeen(seen *controllers.Seen) *reading {
	table, verdicts := policy.Compile(seen.Input)
	why := maps.Clone(seen.Refused)
	notes := maps.Clone(seen.Notes)
	r := &reading{table: table, where: "in the cluster", within: " in its namespace"}
	for _, v := range verdicts {
		if v.Object.Kind != policy.KindQuota {
			continue
		}
		name := v.Object.Name
		r.quotas = append(r.quotas, name.String())
		if _, refused := why[name]; v.Accepted() || refused {
			continue
		}
		why[name] = problemsOf(v)
		notes[name] = append(notes[name], fmt.Sprintf("%s: by what you may read it would not be accepted: %s; here it goes on as it was accepted last",
			v.Object, strings.TrimSuffix(why[name], ".")))
	}
	r.why = func(name policy.Name) string { return why[name] }
	r.notes = func(name policy.Name) []string { return notes[name] }
	return r
}

func problemsOf(v policy.Verdict) string {
	lines := make([]string, 0, len(v.Problems))
	for _, p := range v.Problems {
		lines = append(lines, p.Reason+": "+p.Field+": "+p.Message)
	}
	return strings.Join(lines, " ")
}

// quota finds an ApiKeyQuota with limits, or says why there is none.
func (r *reading) quota(name policy.Name) (*policy.Credential, error) {
	credential, found := r.table.Quota(name)
	switch {
	case found && credential.Holder != nil:
		return credential, nil
	case found || slices.Contains(r.quotas, name.String()):
		return nil, fmt.Errorf("ApiKeyQuota %s is not accepted, so requests with its keys are answered 401:\n  %s", name, r.why(name))
	default:
		return nil, r.noSuchQuota(name)
	}
}

// noSuchQuota names those that come near.
func (r *reading) noSuchQuota(name policy.Name) error {
	text := fmt.Sprintf("there is no ApiKeyQuota %s %s", name, r.where)
	names := slices.Sorted(slices.Values(r.quotas))
	switch near := nearest(name.String(), names); {
	case len(near) > 0:
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	case len(names) == 0:
		text += ", nor any other" + r.within
	default:
		more := ""
		if len(names) > 5 {
			names, more = names[:5], ", …"
		}
		text += "; there are " + strings.Join(names, ", ") + more
	}
	return errors.New(text)
}
