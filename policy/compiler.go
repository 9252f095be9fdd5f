package policy

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tierkeeper/tierkeeper/api/v1alpha1"
)

// A Compiler compiles one Input after another, and makes anew only what has changed since the last: a change of one quota costs
// little, however many there are. It decides nothing: what comes out is what Compile makes of the same Input, if that is given
// what the Compiler's last Table accepted, with what the Input's LastAccepted says put over it.
//
// The zero Compiler remembers nothing. It is for one goroutine at a time; its Tables are for any number.
type Compiler struct {
	table *Table  // the last one; nil: there was none
	held  *memory // nil: nothing is reused
}

// Compile is Compile for this Input and what is remembered. The Compiler keeps none of the Input's lists and objects, but what
// objects refer to, such as the maps of their labels: whoever changes an object must give it another.
func (c *Compiler) Compile(in Input) (*Table, []Verdict) {
	held := c.held
	if held == nil {
		held = newMemory(len(in.Quotas))
	}
	c.held = nil // Should this panic, the next compilation does not trust what is half done.
	table, verdicts := compile(in, c.table, held)
	c.table, c.held = table, held
	return table, verdicts
}

// A memory is what the last compilation was made of and what came of it. What is reused is the same pointer, so one pointer
// tells whether anything behind it has changed:
//   - a tier, or a user, while its object says the same; the map of users, while all of them do;
//   - a catalog, while all ModelLimits say the same and have the same labels;
//   - a Credential, while its quota says the same and was accepted, and so are the tier, the user, the digests of its keys and
//     who owns them, and what its namespace may use;
//   - a Gateway, while its object says the same and was accepted, and so are its Secrets, the tiers that it assigns and that its
//     namespace may use them, the catalog and the namespaces that it admits.
//
// What is not accepted is always made anew.
type memory struct {
	tiers    map[string]heldTier
	users    heldUsers
	models   map[string]heldModel
	catalogs map[string]*catalog   // by selector
	counting map[string][]*catalog // by namespace; see catalogsFor
	gateways map[Name]*heldGateway // all that are served

	number     uint64 // of the compilation
	quotas     map[Name]*heldQuota
	order      []*heldQuota               // in which they were listed
	namespaces map[string]int             // how many quotas each has
	owners     map[Digest]*heldQuota      // see claim
	rivals     map[Digest][]*heldQuota    // all who claim a digest that several do
	byName     sharded[Name, *Credential] // as Tables have them
	byKey      sharded[Digest, *Credential]
	verdicts   []Verdict      // on quotas, sorted
	sum        sum            // of all quotas
	names      map[string]int // how many quotas call a model so
	named      matcher[struct{}]
	namedAll   map[string]bool // what is in named; nil: nothing was gathered
}

func newMemory(quotas int) *memory {
	return &memory{
		quotas: make(map[Name]*heldQuota, quotas), namespaces: map[string]int{},
		owners: make(map[Digest]*heldQuota, quotas), rivals: map[Digest][]*heldQuota{},
		byName: newSharded[Name, *Credential](quotas), byKey: newSharded[Digest, *Credential](quotas),
		names: map[string]int{},
	}
}

// An identity tells what an object says from what any other says, or the same one at another time. The API server gives no two
// objects one UID, and an object another generation whenever its spec becomes another: our CRDs have no defaults that a later one
// could change, and who restores a cluster from a backup must restart what watches it in any case. Labels and status are not
// covered: of labels only those of ModelLimits matter here, and of status nothing does. Objects of files have no identity.
type identity struct {
	uid        types.UID
	generation int64
}

func identityOf(o *metav1.ObjectMeta) identity { return identity{o.UID, o.Generation} }

func (i identity) same(other identity) bool { return i == other && i.uid != "" && i.generation != 0 }

type heldTier struct {
	identity identity
	tier     *tier
}

// heldUsers is what was made of all UserQuotas. Its maps are those of Tables.
type heldUsers struct {
	quotas   map[Name]heldUser
	named    map[Name]*user  // by namespace and spec.user
	limiting map[Name]*user  // the same, by UserQuota
	names    map[string]bool // by which they call models
	verdicts []Verdict       // sorted
}

type heldUser struct {
	identity identity
	user     *user // nil: another one limits the user
}

func newHeldUsers(n int) heldUsers {
	return heldUsers{
		quotas: make(map[Name]heldUser, n), named: make(map[Name]*user, n), limiting: make(map[Name]*user, n),
		names: map[string]bool{}, verdicts: make([]Verdict, 0, n),
	}
}

func (h *heldUsers) refuse(object *v1alpha1.UserQuota, p Problem) {
	h.quotas[nameOf(&object.ObjectMeta)] = heldUser{identityOf(&object.ObjectMeta), nil}
	h.verdicts = append(h.verdicts, newVerdict(KindUser, &object.ObjectMeta, []Problem{p}))
}

func (h *heldUsers) take(object *v1alpha1.UserQuota, u *user) {
	h.quotas[u.quota] = heldUser{identityOf(&object.ObjectMeta), u}
	h.named[Name{object.Namespace, u.name}], h.limiting[u.quota] = u, u
	for name := range u.rules.models.each() {
		h.names[name] = true
	}
	h.verdicts = append(h.verdicts, newVerdict(KindUser, &object.ObjectMeta, nil))
}

type heldModel struct {
	identity identity
	labels   map[string]string
}

// heldQuota is an ApiKeyQuota as it was compiled last.
type heldQuota struct {
	identity identity
	claims   []Digest // of its keys, in their order; without those that are not known
	cred     *Credential
	sum      sum
	accepted bool

	// What follows is about the compilation that is going on.
	number uint64
	at     int       // in Input.Quotas
	same   bool      // the object, its digests and that they are its own are as they were, and it was accepted
	keys   []keyRead // nil: not read
}

// heldGateway is a QuotaGateway as it was compiled last.
type heldGateway struct {
	identity identity         // zero where it is not accepted, so that it is made anew
	record   *AcceptedGateway // by which it goes on; nil where it was never accepted
	gateway  *Gateway
	sum      sum
}

// tierOf compiles a tier, unless it says what it said.
func (c *compilation) tierOf(t *v1alpha1.RateLimitTier) *tier {
	id := identityOf(&t.ObjectMeta)
	if last, known := c.held.tiers[t.Name]; known && last.identity.same(id) {
		return last.tier
	}
	compiled := compileTier(TierRef{Name: t.Name}, &t.Spec)
	on := acceptedTier(t)
	compiled.key = on.Key()
	return compiled
}

// userOf compiles a user, unless its object says what it said.
func (c *compilation) userOf(u *v1alpha1.UserQuota) *user {
	id := identityOf(&u.ObjectMeta)
	if last := c.held.users.quotas[nameOf(&u.ObjectMeta)]; last.user != nil && last.identity.same(id) {
		return last.user
	}
	from := Origin{Kind: KindUser, Namespace: u.Namespace, Name: u.Name}
	return newUser(nameOf(&u.ObjectMeta), u.Spec.User, newRuleset(&u.Spec.KeyLimits, u.Spec.Enforcement, from))
}

// sameUsers reports whether all UserQuotas say what they said.
func (c *compilation) sameUsers() bool {
	if c.held.users.quotas == nil || len(c.in.Users) != len(c.held.users.quotas) {
		return false
	}
	for _, u := range c.in.Users {
		if !c.held.users.quotas[nameOf(&u.ObjectMeta)].identity.same(identityOf(&u.ObjectMeta)) {
			return false
		}
	}
	return true
}

// rememberModels forgets all catalogs, unless the ModelLimits are what they were.
func (c *compilation) rememberModels() {
	now := make(map[string]heldModel, len(c.in.Models))
	same := len(c.in.Models) == len(c.held.models)
	for _, m := range c.in.Models {
		now[m.Name] = heldModel{identityOf(&m.ObjectMeta), m.Labels}
		last, known := c.held.models[m.Name]
		same = same && known && last.identity.same(now[m.Name].identity) && maps.Equal(last.labels, m.Labels)
	}
	c.held.models = now
	if !same {
		c.held.catalogs = nil
	}
}

// recounted reports whether other catalogs count for the keys of a namespace than did.
func (c *compilation) recounted(namespace string) bool {
	changed, known := c.changed[namespace]
	if !known {
		changed = !slices.Equal(c.catalogsFor(namespace), c.held.counting[namespace])
		c.changed[namespace] = changed
	}
	return changed
}

// look finds out which quotas say what they said, and with which keys, and which are gone. Those that do not claim the
// digests of their keys anew.
func (c *compilation) look() {
	held, anew := c.held, []*heldQuota(nil)
	held.number++
	c.quotas = make([]*heldQuota, 0, len(c.in.Quotas))
	for i, q := range c.in.Quotas {
		h := held.quota(nameOf(&q.ObjectMeta), i)
		if h.number == held.number {
			continue // No two objects have one name.
		}
		id := identityOf(&q.ObjectMeta)
		h.number, h.at = held.number, i
		h.same = h.accepted && h.identity.same(id) && c.readsSame(q, h.claims)
		h.identity = id
		c.quotas = append(c.quotas, h)
		if !h.same {
			anew = append(anew, h)
		}
	}
	if len(held.quotas) > len(c.quotas) {
		for name, h := range held.quotas {
			if h.number != held.number {
				held.forget(name, h)
				c.gone = true
			}
		}
	}
	held.order = c.quotas
	c.claim(anew)
}

// quota is new where none of the name is held. Most are listed where they were, and none need be searched for then.
func (m *memory) quota(name Name, at int) *heldQuota {
	if at < len(m.order) && m.order[at].cred.Quota == name {
		return m.order[at]
	}
	h := m.quotas[name]
	if h == nil {
		h = &heldQuota{}
		m.quotas[name] = h
		m.namespaces[name.Namespace]++
	}
	return h
}

// readsSame reports whether the Secrets of an accepted quota hold the keys that they held.
func (c *compilation) readsSame(q *v1alpha1.ApiKeyQuota, claims []Digest) bool {
	for i := range q.Spec.Keys {
		ref := q.Spec.Keys[i].SecretKeyRef
		if ref == nil {
			continue
		}
		key, p := c.in.readKey(SecretValue{Secret: Name{q.Namespace, ref.Name}, Key: ref.Key})
		if p != nil || key.Digest != claims[i] {
			return false
		}
	}
	return true
}

// stands reports whether a quota that is the same gets what it got, so that nothing of it need be made anew. A Holder knows of
// no catalog: by others, its limits are only to be checked.
func (c *compilation) stands(q *v1alpha1.ApiKeyQuota, h *heldQuota) bool {
	holder, t := h.cred.Holder, c.compiled[q.Spec.TierRef.Name]
	if t == nil || t != holder.tier || !c.permits(c.tiers[t.ref.Name], q.Namespace) || c.userNamed(q.Namespace, q.Spec.User) != holder.user {
		return false
	}
	return !c.recounted(q.Namespace) || c.checkHolder(holder, t, q.Namespace) == nil
}

// gatewayStands reports whether nothing of a gateway need be made anew.
func (c *compilation) gatewayStands(g *v1alpha1.QuotaGateway, h *heldGateway) bool {
	now := h.gateway
	if !h.identity.same(identityOf(&g.ObjectMeta)) || c.catalogOf(g.Spec.ModelLimitSelector) != now.models {
		return false
	}
	for _, a := range now.assigned() {
		name := a.tier.ref.Name
		if c.compiled[name] != a.tier || c.checkTier(now.Name.Namespace, name, "") != nil {
			return false
		}
	}
	return len(c.checkUses(now.secrets)) == 0 && now.admits.same(c.admits(now.Name.Namespace, g.Spec.AllowedKeys))
}

// put makes a Credential what there is of a quota.
func (m *memory) put(h *heldQuota, cred *Credential, s sum) {
	m.drop(h)
	h.cred, h.sum = cred, s
	m.sum.add(s)
	m.byName.set(cred.Quota, cred)
	for _, d := range cred.digests {
		m.byKey.set(d, cred)
	}
	m.call(cred, 1)
}

// drop takes back what put did, but for the name.
func (m *memory) drop(h *heldQuota) {
	if h.cred == nil {
		return
	}
	m.sum.subtract(h.sum)
	for _, d := range h.cred.digests {
		if holder, _ := m.byKey.get(d); holder == h.cred {
			m.byKey.delete(d)
		}
	}
	m.call(h.cred, -1)
}

// forget takes out a quota that is gone.
func (m *memory) forget(name Name, h *heldQuota) {
	m.withdraw(h)
	m.drop(h)
	m.byName.delete(name)
	delete(m.quotas, name)
	if m.namespaces[name.Namespace]--; m.namespaces[name.Namespace] == 0 {
		delete(m.namespaces, name.Namespace)
	}
}

// call notes that n more quotas call models as the credential's own rules do.
func (m *memory) call(cred *Credential, n int) {
	if cred.Holder == nil || cred.Holder.own == nil {
		return
	}
	for name := range cred.Holder.own.models.each() {
		if m.names[name] += n; m.names[name] == 0 {
			delete(m.names, name)
		}
	}
}

// judgeAll is all verdicts, sorted: on quotas those that were made anew, put between those that hold still.
func (c *compilation) judgeAll() []Verdict {
	last := c.held.verdicts
	if c.gone {
		last = slices.DeleteFunc(slices.Clone(last), func(v Verdict) bool { return c.held.quotas[v.Object.Name] == nil })
	}
	all := make([]Verdict, 0, len(c.quotas)+len(c.verdicts)+len(c.held.users.verdicts))
	slices.SortFunc(c.anew, compareVerdicts)
	for _, v := range c.anew {
		i, found := slices.BinarySearchFunc(last, v, compareVerdicts)
		all, last = append(append(all, last[:i]...), v), last[i:]
		if found {
			last = last[1:]
		}
	}
	all = append(all, last...)
	c.held.verdicts = slices.Clip(all)
	slices.SortFunc(c.verdicts, compareVerdicts)
	return append(append(all, c.verdicts...), c.held.users.verdicts...) // The kind of quotas is the first, that of users the last.
}
