/* The policy as a table: rules, a question, the answer. */
#include "adit/policy/policy.h"
#include "adit/base/mem.h"

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

/* --- rules in words ------------------------------------------------------------------------------------------------ */

struct rule {
	const char *name;
	bool allow;
	const char *to, *ports, *users; /* separated by blanks; "" : none */
};

enum { RULES_MAX = 8, ITEMS_MAX = 8, TEXT_MAX = 200 };

struct built_rule {
	struct conf_to to[ITEMS_MAX];
	struct conf_ports ports[ITEMS_MAX];
	char *users[ITEMS_MAX];
	char name[TEXT_MAX], to_text[TEXT_MAX], port_text[TEXT_MAX], user_text[TEXT_MAX];
};

struct built {
	struct conf conf;
	struct conf_rule rules[RULES_MAX];
	struct built_rule parts[RULES_MAX];
};

static size_t split(char text[static TEXT_MAX], const char *from, char *out[static ITEMS_MAX])
{
	size_t n = 0;
	char *save = NULL;

	snprintf(text, TEXT_MAX, "%s", from);
	for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		cr_assert_lt(n, (size_t)ITEMS_MAX);
		out[n++] = word;
	}
	return n;
}

static struct conf_to to_of(char *word)
{
	struct conf_to to = { .kind = CONF_TO_NAME, .name = word };

	for (int set = 0; set < ADDR_SET_COUNT; set++)
		if (strcmp(word, conf_set_name((enum addr_set)set)) == 0)
			return (struct conf_to){ .kind = CONF_TO_SET, .set = (enum addr_set)set };
	if (cidr_parse(&to.cidr, slice_of(word), NULL))
		return (struct conf_to){ .kind = CONF_TO_CIDR, .cidr = to.cidr };
	if (strncmp(word, "*.", 2) == 0)
		return (struct conf_to){ .kind = CONF_TO_SUFFIX, .name = word + 2 };
	return to;
}

static struct conf_ports ports_of(const char *word)
{
	char *end;
	unsigned long first = strtoul(word, &end, 10), last = *end == '-' ? strtoul(end + 1, NULL, 10) : first;

	if (strcmp(word, "any") == 0)
		return (struct conf_ports){ 1, 65535 };
	return (struct conf_ports){ (uint16_t)first, (uint16_t)last };
}

static void build(struct built *b, const struct rule *rules)
{
	char *words[ITEMS_MAX];

	memset(b, 0, sizeof(*b));
	b->conf.magic = OBJ_MAGIC('C', 'O', 'N', 'F');
	atomic_init(&b->conf.refs, 1);
	b->conf.policy.rules = b->rules;
	for (size_t i = 0; rules[i].name; i++) {
		struct built_rule *part = &b->parts[i];
		struct conf_rule *rule = &b->rules[i];

		cr_assert_lt(i, (size_t)RULES_MAX);
		snprintf(part->name, sizeof(part->name), "%s", rules[i].name);
		*rule = (struct conf_rule){ .name = part->name, .allow = rules[i].allow, .to = part->to,
					    .ports = part->ports, .users = part->users };
		rule->to_count = split(part->to_text, rules[i].to, words);
		for (size_t k = 0; k < rule->to_count; k++)
			part->to[k] = to_of(words[k]);
		rule->port_count = split(part->port_text, rules[i].ports, words);
		for (size_t k = 0; k < rule->port_count; k++)
			part->ports[k] = ports_of(words[k]);
		rule->user_count = split(part->user_text, rules[i].users, part->users);
		b->conf.policy.rule_count = i + 1;
	}
}

/* --- questions in words ---------------------------------------------------------------------------------------------- */

struct ask {
	const char *user, *target;
	const char *address; /* NULL: before resolving */
	enum policy_verdict verdict;
	enum reason reason;
	const char *rule; /* "default" too */
};

static struct policy_answer answer_of(const struct policy *policy, const struct ask *ask)
{
	struct authority authority;
	struct policy_question q = { .user = ask->user, .host = &authority.host, .default_ports = { 443, 0 } };
	struct addr address;

	cr_assert_eq(authority_parse(slice_of(ask->target), &authority), REASON_OK, "%s", ask->target);
	q.port = authority.port;
	if (!ask->address)
		return policy_name(policy, &q);
	/* The port of the address is not the one that is asked about. */
	cr_assert(addr_from_literal(&address, slice_of(ask->address), 1), "%s", ask->address);
	return policy_address(policy, &q, &address);
}

static void check(const struct policy *policy, const struct ask *asks, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct ask *ask = &asks[i];
		struct policy_answer answer = answer_of(policy, ask);

		cr_expect(answer.verdict == ask->verdict && answer.reason == ask->reason &&
				  strcmp(answer.rule, ask->rule) == 0,
			  "%s to %s at %s: verdict %d (%s) by %s, not %d (%s) by %s", ask->user ? ask->user : "nobody",
			  ask->target, ask->address ? ask->address : "?", (int)answer.verdict, reason_name(answer.reason),
			  answer.rule, (int)ask->verdict, reason_name(ask->reason), ask->rule);
		/* A literal needs no resolver, and both looks at it agree. */
		if (!ask->address)
			continue;
		struct authority authority;
		authority_parse(slice_of(ask->target), &authority);
		if (authority.host.kind == HOST_IS_ADDRESS) {
			struct ask name = *ask;

			name.address = NULL;
			answer = answer_of(policy, &name);
			cr_expect(answer.verdict == ask->verdict && answer.reason == ask->reason, "%s", ask->target);
		}
	}
}

static void check_rules(const struct rule *rules, const struct ask *asks, size_t count)
{
	static struct built b;
	struct policy *policy;

	build(&b, rules);
	policy = policy_new(&b.conf, NULL, 0, NULL, 0);
	cr_assert_not_null(policy);
	check(policy, asks, count);
	policy_unref(policy);
	cr_expect_eq(atomic_load(&b.conf.refs), 1u);
}

#define YES(rule) POLICY_ALLOW, REASON_OK, rule
#define NO(rule) POLICY_DENY, REASON_DENIED, rule
#define NO_ADDRESS(rule) POLICY_DENY, REASON_ADDRESS_DENIED, rule
#define RESOLVE(rule) POLICY_RESOLVE, REASON_OK, rule

/* --- the tables -------------------------------------------------------------------------------------------------------- */

Test(policy, without_rules)
{
	static const struct rule rules[] = { { 0 } };
	static const struct ask asks[] = {
		{ "alice", "example.org:443", NULL, NO("default") },
		{ "alice", "example.org:443", "8.8.8.8", NO("default") },
		{ "alice", "8.8.8.8:443", NULL, NO("default") },
		{ "alice", "127.0.0.1:443", NULL, NO("default") },
		{ NULL, "example.org:443", NULL, NO("default") },
	};

	check_rules(rules, asks, COUNT(asks));
}

/* The example of the documentation. */
Test(policy, example)
{
	static const struct rule rules[] = {
		{ "lab", true, "loopback 10.20.0.0/16 *.lab.example", "any", "" },
		{ "mail", false, "any", "25 465 587", "" },
		{ "web", true, "any", "443", "" },
		{ 0 }
	};
	static const struct ask asks[] = {
		{ "a", "example.org:443", NULL, RESOLVE("lab") },
		{ "a", "example.org:443", "93.184.216.34", YES("web") },
		{ "a", "example.org:443", "2606:2800::1", YES("web") },
		{ "a", "example.org:443", "10.20.1.1", YES("lab") },
		{ "a", "example.org:443", "10.21.1.1", NO_ADDRESS("default") },
		{ "a", "example.org:443", "127.0.0.1", YES("lab") },
		{ "a", "example.org:443", "169.254.169.254", NO_ADDRESS("default") },
		{ "a", "example.org:25", NULL, RESOLVE("lab") },
		{ "a", "example.org:25", "93.184.216.34", NO("mail") },
		{ "a", "example.org:80", "93.184.216.34", NO_ADDRESS("default") },
		{ "a", "x.lab.example:22", "93.184.216.34", YES("lab") },
		{ "a", "x.lab.example:22", "10.21.1.1", NO_ADDRESS("default") },
		{ "a", "127.0.0.1:22", NULL, YES("lab") },
		{ "a", "[::1]:22", NULL, YES("lab") },
		{ "a", "[::ffff:127.0.0.1]:22", NULL, YES("lab") },
		{ "a", "8.8.8.8:443", NULL, YES("web") },
		{ "a", "8.8.8.8:25", NULL, NO("mail") },
		{ "a", "10.21.0.1:443", NULL, NO_ADDRESS("default") },
	};

	check_rules(rules, asks, COUNT(asks));
}

Test(policy, ports)
{
	static const struct rule rules[] = {
		{ "own", true, "own.example", "", "" }, /* without ports: those of the method */
		{ "list", true, "list.example", "22 8000-8100", "" },
		{ "all", true, "all.example", "any", "" },
		{ 0 }
	};
	static const struct ask asks[] = {
		{ "a", "own.example:443", NULL, RESOLVE("own") },
		{ "a", "own.example:80", NULL, NO("default") },
		{ "a", "list.example:22", NULL, RESOLVE("list") },
		{ "a", "list.example:443", NULL, NO("default") },
		{ "a", "list.example:7999", NULL, NO("default") },
		{ "a", "list.example:8000", NULL, RESOLVE("list") },
		{ "a", "list.example:8100", NULL, RESOLVE("list") },
		{ "a", "list.example:8101", NULL, NO("default") },
		{ "a", "all.example:1", NULL, RESOLVE("all") },
		{ "a", "all.example:65535", NULL, RESOLVE("all") },
	};

	check_rules(rules, asks, COUNT(asks));
}

Test(policy, ports_of_the_method)
{
	static const struct rule rules[] = { { "web", true, "any", "", "" }, { 0 } };
	static struct built b;
	struct policy *policy;
	struct host host;
	struct policy_question q = { .user = "a", .host = &host, .port = 80, .default_ports = { 80, 443 } };

	build(&b, rules);
	policy = policy_new(&b.conf, NULL, 0, NULL, 0);
	host_parse(slice_of("8.8.8.8"), &host);
	cr_expect_eq(policy_name(policy, &q).verdict, POLICY_ALLOW);
	q.port = 443;
	cr_expect_eq(policy_name(policy, &q).verdict, POLICY_ALLOW);
	q.port = 8080;
	cr_expect_eq(policy_name(policy, &q).verdict, POLICY_DENY);
	policy_unref(policy);
}

Test(policy, users)
{
	static const struct rule rules[] = {
		{ "not-bob", false, "secret.example", "", "bob" },
		{ "ops", true, "any rfc1918", "any", "alice carol" },
		{ "web", true, "any", "", "" },
		{ 0 }
	};
	static const struct ask asks[] = {
		{ "bob", "secret.example:443", NULL, NO("not-bob") },
		{ "Bob", "secret.example:443", NULL, RESOLVE("web") },
		{ "bobby", "secret.example:443", NULL, RESOLVE("web") },
		{ "alice", "secret.example:443", NULL, RESOLVE("ops") },
		{ "carol", "x.example:22", "10.0.0.1", YES("ops") },
		{ "bob", "x.example:22", NULL, NO("default") },
		{ "bob", "x.example:443", "10.0.0.1", NO_ADDRESS("default") },
		{ NULL, "x.example:22", NULL, NO("default") },
		{ NULL, "x.example:443", NULL, RESOLVE("web") },
	};

	check_rules(rules, asks, COUNT(asks));
}

Test(policy, names)
{
	static const struct rule rules[] = {
		{ "apex", false, "example.org", "any", "" },
		{ "sub", true, "*.example.org", "any", "" },
		{ "one", true, "localhost", "any", "" },
		{ 0 }
	};
	static const struct ask asks[] = {
		{ "a", "example.org:1", NULL, NO("apex") },
		{ "a", "EXAMPLE.ORG.:1", NULL, NO("apex") },
		{ "a", "a.example.org:1", NULL, RESOLVE("sub") },
		{ "a", "A.b.Example.ORG.:1", NULL, RESOLVE("sub") },
		{ "a", "xexample.org:1", NULL, NO("default") },
		{ "a", "example.org.evil:1", NULL, NO("default") },
		{ "a", "org:1", NULL, NO("default") },
		{ "a", "localhost:1", NULL, RESOLVE("one") },
		{ "a", "x.localhost:1", NULL, NO("default") },
	};

	check_rules(rules, asks, COUNT(asks));
}

/* What a rule opens: exact names the inside of a network but not of a machine, suffixes nothing, sets and blocks what
 * they say. */
Test(policy, special_use)
{
	static const struct rule rules[] = {
		{ "name", true, "exact.example", "", "" },
		{ "suffix", true, "*.wild.example", "", "" },
		{ "any", true, "any", "1001", "" },
		{ "private", true, "private", "1002", "" },
		{ "loopback", true, "loopback", "1003", "" },
		{ "link", true, "link-local", "1004", "" },
		{ "meta", true, "metadata", "1005", "" },
		{ "all4", true, "0.0.0.0/0", "1006", "" },
		{ 0 }
	};
	static const struct ask asks[] = {
		{ "a", "exact.example:443", "8.8.8.8", YES("name") },
		{ "a", "exact.example:443", "10.0.0.1", YES("name") },
		{ "a", "exact.example:443", "192.168.0.1", YES("name") },
		{ "a", "exact.example:443", "fd12::1", YES("name") },
		{ "a", "exact.example:443", "100.64.0.1", YES("name") },
		{ "a", "exact.example:443", "64:ff9b::10.0.0.1", YES("name") },
		{ "a", "exact.example:443", "127.0.0.1", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "0.0.0.0", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "::", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "::1", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "::ffff:127.0.0.1", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "64:ff9b::127.0.0.1", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "2002:7f00:1::", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "169.254.1.1", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "fe80::1", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "169.254.169.254", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "100.100.100.200", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "fd00:ec2::254", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "224.0.0.1", NO_ADDRESS("default") },
		{ "a", "exact.example:443", "64:ff9b:1::8.8.8.8", NO_ADDRESS("default") },

		{ "a", "x.wild.example:443", "8.8.8.8", YES("suffix") },
		{ "a", "x.wild.example:443", "10.0.0.1", NO_ADDRESS("default") },
		{ "a", "x.wild.example:443", "127.0.0.1", NO_ADDRESS("default") },
		{ "a", "x.wild.example:443", "fd12::1", NO_ADDRESS("default") },

		{ "a", "x.example:1001", "8.8.8.8", YES("any") },
		{ "a", "x.example:1001", "64:ff9b::8.8.8.8", YES("any") },
		{ "a", "x.example:1001", "10.0.0.1", NO_ADDRESS("default") },
		{ "a", "x.example:1001", "168.63.129.16", NO_ADDRESS("default") },
		{ "a", "8.8.8.8:1001", "8.8.8.8", YES("any") },
		{ "a", "10.0.0.1:1001", "10.0.0.1", NO_ADDRESS("default") },

		{ "a", "x.example:1002", "8.8.8.8", NO_ADDRESS("default") },
		{ "a", "x.example:1002", "10.0.0.1", YES("private") },
		{ "a", "x.example:1002", "127.0.0.1", YES("private") },
		{ "a", "x.example:1002", "169.254.169.254", YES("private") },
		{ "a", "x.example:1002", "224.0.0.1", YES("private") },

		{ "a", "x.example:1003", "127.9.9.9", YES("loopback") },
		{ "a", "x.example:1003", "0.0.0.0", YES("loopback") },
		{ "a", "x.example:1003", "10.0.0.1", NO_ADDRESS("default") },
		{ "a", "x.example:1004", "169.254.1.1", YES("link") },
		{ "a", "x.example:1004", "169.254.169.254", NO_ADDRESS("default") },
		{ "a", "x.example:1005", "169.254.169.254", YES("meta") },
		{ "a", "x.example:1005", "169.254.1.1", NO_ADDRESS("default") },
		{ "a", "x.example:1006", "8.8.8.8", YES("all4") },
		{ "a", "x.example:1006", "10.0.0.1", NO_ADDRESS("default") },
		{ "a", "x.example:1006", "2606:4700::1", NO_ADDRESS("default") },
	};

	check_rules(rules, asks, COUNT(asks));
}

/* A definite match before any unknown one decides; an unknown one before it means: resolve. */
Test(policy, three_values)
{
	static const struct rule rules[] = {
		{ "deny-first", false, "bad.example", "any", "" },
		{ "net", false, "203.0.114.0/24 worse.example", "any", "" },
		{ "deny-later", false, "late.example", "any", "" },
		{ "good", true, "good.example late.example", "any", "" },
		{ 0 }
	};
	static const struct ask asks[] = {
		{ "a", "bad.example:443", NULL, NO("deny-first") },
		{ "a", "bad.example:443", "8.8.8.8", NO("deny-first") },
		{ "a", "worse.example:443", NULL, NO("net") }, /* its name matches whatever its address is */
		{ "a", "late.example:443", NULL, RESOLVE("net") },
		{ "a", "late.example:443", "8.8.8.8", NO("deny-later") },
		{ "a", "late.example:443", "203.0.114.1", NO_ADDRESS("net") },
		{ "a", "good.example:443", NULL, RESOLVE("net") },
		{ "a", "good.example:443", "8.8.8.8", YES("good") },
		{ "a", "good.example:443", "203.0.114.1", NO_ADDRESS("net") },
		{ "a", "other.example:443", NULL, RESOLVE("net") },
		{ "a", "other.example:443", "8.8.8.8", NO("default") },
	};

	check_rules(rules, asks, COUNT(asks));
}

/* An allowing rule that matches the name but does not open the address is passed over. */
Test(policy, passed_over)
{
	static const struct rule rules[] = {
		{ "name", true, "x.example", "", "" },
		{ "lo", true, "127.0.0.0/8", "", "" },
		{ "no-link", false, "link-local", "", "" },
		{ 0 }
	};
	static const struct ask asks[] = {
		{ "a", "x.example:443", "8.8.8.8", YES("name") },
		{ "a", "x.example:443", "127.0.0.1", YES("lo") },
		{ "a", "x.example:443", "169.254.1.1", NO_ADDRESS("no-link") },
		{ "a", "x.example:443", "::1", NO_ADDRESS("default") },
		{ "a", "y.example:443", "8.8.8.8", NO_ADDRESS("default") },
	};

	check_rules(rules, asks, COUNT(asks));
}

/* A denied block is denied in every form. */
Test(policy, denied_in_disguise)
{
	static const struct rule rules[] = {
		{ "no", false, "8.8.8.0/24 10.0.0.0/8", "any", "" },
		{ "all", true, "any private", "any", "" },
		{ 0 }
	};
	static const struct ask asks[] = {
		{ "a", "x.example:443", "8.8.8.8", NO_ADDRESS("no") },
		{ "a", "x.example:443", "::ffff:8.8.8.8", NO_ADDRESS("no") },
		{ "a", "x.example:443", "64:ff9b::8.8.8.8", NO_ADDRESS("no") },
		{ "a", "x.example:443", "2002:808:808::1", NO_ADDRESS("no") },
		{ "a", "x.example:443", "64:ff9b:1::10.0.0.1", NO_ADDRESS("no") },
		{ "a", "[64:ff9b::10.1.1.1]:443", "64:ff9b::10.1.1.1", NO_ADDRESS("no") },
		{ "a", "8.8.8.8:443", "8.8.8.8", NO_ADDRESS("no") },
		{ "a", "x.example:443", "8.8.4.4", YES("all") },
		{ "a", "x.example:443", "64:ff9b::8.8.4.4", YES("all") },
	};

	check_rules(rules, asks, COUNT(asks));
}

/* Random rules: what the first look denies, no address would have been allowed; and the first look is never final when
 * the second would allow. */
Test(policy, both_looks_agree)
{
	static const char *const to[] = { "any", "private", "loopback", "8.8.8.0/24", "10.0.0.0/8", "a.example",
					  "b.a.example", "*.a.example", "*.example", "0.0.0.0/0" };
	static const char *const ports[] = { "", "any", "22" }, *const users[] = { "", "u", "v" };
	static const char *const hosts[] = { "a.example:443", "b.a.example:443", "example:22", "c.example:22" };
	static const char *const addresses[] = { "8.8.8.8", "9.9.9.9", "10.0.0.1", "127.0.0.1", "::1", "2606::1",
						 "169.254.169.254", "64:ff9b::10.0.0.1" };
	static struct built b;
	unsigned seed = 1, denied = 0, resolved = 0;

	for (int round = 0; round < 3000; round++) {
		static char words[5][100];
		struct rule rules[6] = { { 0 } };
		struct policy *policy;

		for (size_t i = 0, n = (seed >> 16) % 6; i < n; i++) {
			unsigned r = (seed = seed * 1103515245u + 12345u) >> 8;

			snprintf(words[i], sizeof(words[i]), "%s %s", to[r % COUNT(to)], r & 64 ? to[r / 128 % COUNT(to)] : "");
			rules[i] = (struct rule){ "rule", r >> 20 & 1, words[i], ports[r / 2048 % 3], users[r / 8192 % 3] };
		}
		seed = seed * 1103515245u + 12345u;
		build(&b, rules);
		policy = policy_new(&b.conf, NULL, 0, NULL, 0);
		for (size_t i = 0; i < COUNT(hosts); i++) {
			struct ask ask = { .user = "u", .target = hosts[i] };
			enum policy_verdict first = answer_of(policy, &ask).verdict;

			cr_assert_neq(first, POLICY_ALLOW);
			denied += first == POLICY_DENY;
			resolved += first == POLICY_RESOLVE;
			for (size_t k = 0; k < COUNT(addresses); k++) {
				struct policy_answer second;

				ask.address = addresses[k];
				second = answer_of(policy, &ask);
				cr_assert_neq(second.verdict, POLICY_RESOLVE);
				cr_assert(first == POLICY_RESOLVE || second.verdict == POLICY_DENY, "round %d: %s at %s", round,
					  hosts[i], addresses[k]);
			}
		}
		policy_unref(policy);
	}
	cr_expect_gt(denied, 1000u);
	cr_expect_gt(resolved, 1000u);
}

/* --- the proxy itself ---------------------------------------------------------------------------------------------------- */

#define LOOP POLICY_DENY, REASON_PROXY_LOOP, "default"

static void check_own(const char *const own[], const char *const locals[], const struct ask *asks, size_t count)
{
	static const struct rule rules[] = { { "all", true, "any private", "any", "" }, { 0 } };
	static struct built b;
	struct addr own_addr[4], local_addr[4];
	size_t own_count = 0, local_count = 0;
	struct policy *policy;

	for (; own[own_count]; own_count++)
		cr_assert(addr_parse(&own_addr[own_count], slice_of(own[own_count])));
	for (; locals[local_count]; local_count++)
		cr_assert(addr_from_literal(&local_addr[local_count], slice_of(locals[local_count]), 0));
	build(&b, rules);
	policy = policy_new(&b.conf, own_addr, own_count, local_addr, local_count);
	cr_assert_not_null(policy);
	check(policy, asks, count);
	policy_unref(policy);
}

Test(policy, own_listener_on_every_address)
{
	static const char *const own[] = { "[::]:8443", NULL };
	static const char *const locals[] = { "192.0.3.7", "2606::7", "fe80::7", NULL };
	static const struct ask asks[] = {
		{ "a", "x.example:8443", "127.0.0.1", LOOP },
		{ "a", "x.example:8443", "127.5.5.5", LOOP },
		{ "a", "x.example:8443", "::1", LOOP },
		{ "a", "x.example:8443", "0.0.0.0", LOOP },
		{ "a", "x.example:8443", "::", LOOP },
		{ "a", "x.example:8443", "192.0.3.7", LOOP },
		{ "a", "x.example:8443", "::ffff:192.0.3.7", LOOP },
		{ "a", "x.example:8443", "64:ff9b::192.0.3.7", LOOP },
		{ "a", "x.example:8443", "2606::7", LOOP },
		{ "a", "x.example:8443", "fe80::7", LOOP },
		{ "a", "127.0.0.1:8443", "127.0.0.1", LOOP },
		{ "a", "x.example:8443", "192.0.3.8", YES("all") },
		{ "a", "x.example:443", "127.0.0.1", YES("all") },
		{ "a", "x.example:443", "192.0.3.7", YES("all") },
		{ "a", "x.example:8443", NULL, RESOLVE("all") },
	};

	check_own(own, locals, asks, COUNT(asks));
}

Test(policy, own_listener_on_one_address)
{
	static const char *const own[] = { "127.0.0.1:8443", "192.0.3.7:3128", "[2606::7]:3128", NULL };
	static const char *const locals[] = { "192.0.3.7", "192.0.3.9", NULL };
	static const struct ask asks[] = {
		{ "a", "x.example:8443", "127.0.0.1", LOOP },
		{ "a", "x.example:8443", "0.0.0.0", LOOP },
		{ "a", "x.example:8443", "::", LOOP },
		{ "a", "x.example:8443", "127.0.0.2", YES("all") },
		{ "a", "x.example:8443", "192.0.3.7", YES("all") },
		{ "a", "x.example:3128", "192.0.3.7", LOOP },
		{ "a", "x.example:3128", "2002:c000:307::", LOOP },
		{ "a", "x.example:3128", "64:ff9b:1::192.0.3.7", LOOP },
		{ "a", "x.example:3128", "2606::7", LOOP },
		{ "a", "x.example:3128", "192.0.3.9", YES("all") },
		{ "a", "x.example:3128", "127.0.0.1", YES("all") },
	};

	check_own(own, locals, asks, COUNT(asks));
}

/* --- life ------------------------------------------------------------------------------------------------------------------ */

Test(policy, out_of_memory)
{
	static const struct rule rules[] = { { "web", true, "any", "", "" }, { 0 } };
	static struct built b;
	struct addr own;
	unsigned long nth = 0;
	struct policy *policy = NULL;

	build(&b, rules);
	cr_assert(addr_parse(&own, slice_of("127.0.0.1:1")));
	while (!policy) {
		mem_fault_set(++nth, false);
		policy = policy_new(&b.conf, &own, 1, &own, 1);
		cr_assert_eq(policy == NULL, mem_fault_hit());
		cr_assert_eq(atomic_load(&b.conf.refs), policy ? 2u : 1u);
	}
	mem_fault_set(0, false);
	cr_expect_eq(nth, 4u);
	cr_expect_eq(policy_ref(policy), policy);
	policy_unref(policy);
	cr_expect_eq(atomic_load(&b.conf.refs), 2u);
	policy_unref(policy);
	cr_expect_eq(atomic_load(&b.conf.refs), 1u);
	policy_unref(NULL);
}
