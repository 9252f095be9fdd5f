package feed

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tierkeeper/tierkeeper/policy"
)

var kinds = []string{policy.KindTier, policy.KindUser, policy.KindModel, policy.KindGateway, policy.KindQuota}

// ofCluster are the kinds without namespaces. They are those of whose objects there can be several parts, too.
var ofCluster = []string{policy.KindTier, policy.KindModel}

// resourceName is that of a part on the wire. Only the form can hold a slash, and it stands last.
func resourceName(n policy.PartName) string {
	name := n.Kind + "/" + n.Namespace + "/" + n.Name.Name
	if n.Form != "" {
		name += "/" + n.Form
	}
	return name
}

// referredFirst orders the names of parts so that a quota comes after all that it refers to: one that comes before must wait for
// it, and is made twice.
func referredFirst(a, b string) int { return strings.Compare(b, a) }

// parseName reads what resourceName writes.
func parseName(name string) (policy.PartName, error) {
	fields := strings.SplitN(name, "/", 4)
	if len(fields) < 3 || !slices.Contains(kinds, fields[0]) || fields[2] == "" || len(fields) == 4 && fields[3] == "" {
		return policy.PartName{}, fmt.Errorf("%q is not the name of a part: want KIND/NAMESPACE/NAME[/FORM] with a KIND of %s", name, strings.Join(kinds, ", "))
	}
	n := policy.PartName{Object: policy.Object{Kind: fields[0], Name: policy.Name{Namespace: fields[1], Name: fields[2]}}}
	if len(fields) == 4 {
		n.Form = fields[3]
	}
	cluster := slices.Contains(ofCluster, n.Kind)
	if cluster && n.Namespace != "" || !cluster && n.Form != "" {
		return policy.PartName{}, fmt.Errorf("%q is not the name of a part: kinds of cluster scope have no namespace, and the others no form", name)
	}
	return n, nil
}
