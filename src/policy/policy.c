/* The rules: may this user reach that host and port?
 *
 * What is hard is that a name is judged twice. Before it is resolved, conditions on addresses are unknown, and only
 * what no address could change may be decided; the second time, for each address, nothing is unknown, and all rules are
 * gone through again from the first, so that both looks agree. An allowing rule that matches by a name does not thereby
 * open the inside of a network to whoever runs that name's DNS: special-use addresses have to be meant. */
#include "adit/policy/policy.h"
#include "adit/base/mem.h"
#include "adit/policy/addrclass.h"

#include <stdatomic.h>

enum { POLICY_MAGIC = OBJ_MAGIC('p', 'l', 'c', 'y') };

struct policy {
	uint32_t magic;
	_Atomic unsigned refs;
	struct conf *conf;
	struct addr *own, *locals;
	size_t own_count, local_count;
};

static const char DEFAULT_RULE[] = "default";

/* --- life ---------------------------------------------------------------------------------------------------- */

static bool addrs_copy(struct addr **out, const struct addr *from, size_t count)
{
	if (count == 0)
		return true;
	*out = mem_array(count, sizeof(**out));
	if (!*out)
		return false;
	memcpy(*out, from, count * sizeof(**out));
	return true;
}

static void policy_free(struct policy *policy)
{
	if (policy->conf)
		conf_unref(policy->conf);
	mem_free(policy->own);
	mem_free(policy->locals);
	OBJ_FINI(policy);
	mem_free(policy);
}

struct policy *policy_new(struct conf *conf, const struct addr *own, size_t own_count, const struct addr *locals,
			  size_t local_count)
{
	struct policy *policy = mem_alloc(sizeof(*policy));

	if (!policy)
		return NULL;
	OBJ_INIT(policy, POLICY_MAGIC);
	atomic_init(&policy->refs, 1);
	policy->own_count = own_count;
	policy->local_count = local_count;
	if (!addrs_copy(&policy->own, own, own_count) || !addrs_copy(&policy->locals, locals, local_count)) {
		policy_free(policy);
		return NULL;
	}
	policy->conf = conf_ref(conf);
	return policy;
}

struct policy *policy_ref(struct policy *policy)
{
	OBJ_CHECK(policy, POLICY_MAGIC);
	atomic_fetch_add_explicit(&policy->refs, 1, memory_order_relaxed);
	return policy;
}

void policy_unref(struct policy *policy)
{
	if (!policy)
		return;
	OBJ_CHECK(policy, POLICY_MAGIC);
	if (atomic_fetch_sub_explicit(&policy->refs, 1, memory_order_acq_rel) == 1)
		policy_free(policy);
}

/* --- the proxy's own listeners --------------------------------------------------------------------------------- */

static bool is_unspecified(const struct addr *a)
{
	static const uint8_t V4[16] = { [10] = 0xff, [11] = 0xff }, V6[16];
	uint8_t bytes[16];

	addr_bytes(a, bytes);
	return memcmp(bytes, V4, sizeof(bytes)) == 0 || memcmp(bytes, V6, sizeof(bytes)) == 0;
}

/* The same bytes: a scope says nothing here, for a resolved address has none. */
static bool same_bytes(const struct addr *a, const struct addr *b)
{
	uint8_t left[16], right[16];

	addr_bytes(a, left);
	addr_bytes(b, right);
	return memcmp(left, right, sizeof(left)) == 0;
}

static bool is_local(const struct policy *policy, const struct addr *a)
{
	if (addrclass_of(a) == ADDR_LOOPBACK)
		return true;
	for (size_t i = 0; i < policy->local_count; i++)
		if (same_bytes(a, &policy->locals[i]))
			return true;
	return false;
}

/* Dialling 0.0.0.0 or :: reaches whatever listens on this host, so it counts as each of its addresses. */
static bool is_own_listener(const struct policy *policy, const struct addr *target, uint16_t port)
{
	struct addr readings[ADDR_READINGS_MAX];
	size_t n = addrclass_readings(target, readings);

	for (size_t i = 0; i < policy->own_count; i++) {
		const struct addr *own = &policy->own[i];

		if (addr_port(own) != port)
			continue;
		for (size_t k = 0; k < n; k++)
			if (same_bytes(own, &readings[k]) || is_unspecified(&readings[k]) ||
			    (is_unspecified(own) && is_local(policy, &readings[k])))
				return true;
	}
	return false;
}

/* --- conditions ------------------------------------------------------------------------------------------------ */

static bool user_matches(const struct conf_rule *rule, const char *user)
{
	if (rule->user_count == 0)
		return true;
	for (size_t i = 0; user && i < rule->user_count; i++)
		if (strcmp(rule->users[i], user) == 0)
			return true;
	return false;
}

static bool port_matches(const struct conf_rule *rule, const struct policy_question *q)
{
	if (rule->port_count == 0)
		return q->port == q->default_ports[0] || q->port == q->default_ports[1];
	for (size_t i = 0; i < rule->port_count; i++)
		if (q->port >= rule->ports[i].first && q->port <= rule->ports[i].last)
			return true;
	return false;
}

static bool name_matches(const struct conf_to *to, const struct host *host)
{
	struct slice name = slice_of(host->text), tail = slice_of(to->name);

	if (host->kind != HOST_IS_NAME)
		return false;
	if (to->kind == CONF_TO_NAME)
		return slice_eq(name, tail);
	return name.n > tail.n && name.p[name.n - tail.n - 1] == '.' && slice_ends_with(name, tail);
}

static bool is_address_condition(const struct conf_to *to)
{
	return to->kind == CONF_TO_SET || to->kind == CONF_TO_CIDR;
}

/* --- before resolving ------------------------------------------------------------------------------------------ */

struct policy_answer policy_name(const struct policy *policy, const struct policy_question *q)
{
	const struct conf *conf = policy->conf;

	if (q->host->kind == HOST_IS_ADDRESS)
		return policy_address(policy, q, &q->host->addr);
	for (size_t i = 0; i < conf->policy.rule_count; i++) {
		const struct conf_rule *rule = &conf->policy.rules[i];
		bool named = false, unknown = false;

		if (!user_matches(rule, q->user) || !port_matches(rule, q))
			continue;
		for (size_t k = 0; k < rule->to_count; k++) {
			if (is_address_condition(&rule->to[k]))
				unknown = true;
			else
				named = named || name_matches(&rule->to[k], q->host);
		}
		if (named && !rule->allow)
			return (struct policy_answer){ POLICY_DENY, REASON_DENIED, rule->name };
		if (named || unknown)
			return (struct policy_answer){ POLICY_RESOLVE, REASON_OK, rule->name };
	}
	return (struct policy_answer){ POLICY_DENY, REASON_DENIED, DEFAULT_RULE };
}

/* --- with an address --------------------------------------------------------------------------------------------- */

enum match { MATCH_NO, MATCH_NAME, MATCH_ADDRESS };

static enum match deny_matches(const struct conf_to *to, const struct policy_question *q, const struct addr *address)
{
	switch (to->kind) {
	case CONF_TO_NAME:
	case CONF_TO_SUFFIX:
		return name_matches(to, q->host) ? MATCH_NAME : MATCH_NO;
	case CONF_TO_CIDR:
		return addrclass_touches(address, &to->cidr) ? MATCH_ADDRESS : MATCH_NO;
	case CONF_TO_SET:
		if (!addrclass_in_set(address, to->set))
			return MATCH_NO;
		/* "any" is not about this address. */
		return to->set == ADDR_SET_ANY ? MATCH_NAME : MATCH_ADDRESS;
	}
	return MATCH_NO;
}

static bool allow_matches(const struct conf_to *to, const struct policy_question *q, const struct addr *address)
{
	enum addr_class class;

	switch (to->kind) {
	case CONF_TO_NAME:
		if (!name_matches(to, q->host))
			return false;
		class = addrclass_of(address);
		return class == ADDR_PUBLIC || class == ADDR_RFC1918 || class == ADDR_ULA || class == ADDR_CGNAT;
	case CONF_TO_SUFFIX:
		return name_matches(to, q->host) && addrclass_of(address) == ADDR_PUBLIC;
	case CONF_TO_CIDR:
		return addrclass_named_by(address, &to->cidr);
	case CONF_TO_SET:
		return addrclass_in_set(address, to->set);
	}
	return false;
}

struct policy_answer policy_address(const struct policy *policy, const struct policy_question *q,
				    const struct addr *address)
{
	const struct conf *conf = policy->conf;
	bool by_address = false; /* another address would have been allowed */

	if (is_own_listener(policy, address, q->port))
		return (struct policy_answer){ POLICY_DENY, REASON_PROXY_LOOP, DEFAULT_RULE };
	for (size_t i = 0; i < conf->policy.rule_count; i++) {
		const struct conf_rule *rule = &conf->policy.rules[i];

		if (!user_matches(rule, q->user) || !port_matches(rule, q))
			continue;
		for (size_t k = 0; k < rule->to_count; k++) {
			const struct conf_to *to = &rule->to[k];
			enum match match;

			if (rule->allow) {
				if (allow_matches(to, q, address))
					return (struct policy_answer){ POLICY_ALLOW, REASON_OK, rule->name };
				by_address = by_address || is_address_condition(to) || name_matches(to, q->host);
				continue;
			}
			match = deny_matches(to, q, address);
			if (match != MATCH_NO)
				return (struct policy_answer){ POLICY_DENY,
					match == MATCH_NAME ? REASON_DENIED : REASON_ADDRESS_DENIED, rule->name };
		}
	}
	return (struct policy_answer){ POLICY_DENY, by_address ? REASON_ADDRESS_DENIED : REASON_DENIED, DEFAULT_RULE };
}
