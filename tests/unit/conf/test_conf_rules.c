/* Rules: destinations, ports, users, names. */
#include "unit/conf/load.h"

#include <criterion/criterion.h>
#include <stdlib.h>

/* The one rule's destination or port as it is printed, or what is said against it. */
static char *one(const char *key, const char *value)
{
	struct conf_errors errors = { .text = NULL };
	struct conf *conf;
	char text[1024], *result, *at, *printed;

	if (strcmp(key, "to") == 0)
		snprintf(text, sizeof(text), "policy: { rules: [{ action: deny, to: [%s] }] }", value);
	else
		snprintf(text, sizeof(text), "policy: { rules: [{ action: deny, to: any, %s: [%s] }] }", key, value);
	conf = conf_parse_text("t.yaml", slice_of(text), NULL, 0, &errors);
	if (!conf) {
		cr_assert_eq(errors.count, 1, "%s", value);
		result = strdup(strstr(errors.text[0], "[1]: ") + strlen("[1]: "));
		conf_errors_free(&errors);
		return result;
	}
	printed = load_printed(conf);
	snprintf(text, sizeof(text), ", %s: [", key);
	at = strstr(printed, text);
	cr_assert_not_null(at);
	at += strlen(text);
	result = strndup(at, strcspn(at, "]"));
	free(printed);
	conf_unref(conf);
	return result;
}

struct row {
	const char *value, *result;
};

static void check(const char *key, const struct row *rows, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		char *result = one(key, rows[i].value);

		cr_expect_str_eq(result, rows[i].result, "%s\nexpected: %s\n     got: %s", rows[i].value, rows[i].result, result);
		free(result);
	}
}

#define NO_NAME                                                                                                         \
	" is no set, address, block or name; a name has letters, digits, '-' and '_' in labels of 1 to 63 characters, 253 in all"
#define STAR " has a '*' where none can be; it stands for first labels alone, as in *.example.org"
#define NO_BLOCK " is no block of addresses; write it as 10.20.0.0/16 or fc00::/7"

Test(conf_rules, destinations)
{
	static const struct row rows[] = {
		{ "any", "any" }, { "private", "private" }, { "loopback", "loopback" }, { "link-local", "link-local" },
		{ "rfc1918", "rfc1918" }, { "ula", "ula" }, { "cgnat", "cgnat" }, { "metadata", "metadata" },
		/* names that look like sets */
		{ "loopbak", "\"loopbak\" is no set; loopback is one (a host of that name is written with a final dot)" },
		{ "Any", "\"Any\" is no set; any is one (a host of that name is written with a final dot)" },
		{ "linklocal", "\"linklocal\" is no set; link-local is one (a host of that name is written with a final dot)" },
		{ "rfc1981", "\"rfc1981\" is no set; rfc1918 is one (a host of that name is written with a final dot)" },
		{ "privat", "\"privat\" is no set; private is one (a host of that name is written with a final dot)" },
		{ "privat.", "\"privat.\"" }, { "any.", "\"any.\"" }, { "any.x", "\"any.x\"" },
		/* names */
		{ "localhost", "\"localhost.\"" }, { "WWW.Example.ORG", "\"www.example.org\"" },
		{ "www.example.org.", "\"www.example.org\"" }, { "a_b.c", "\"a_b.c\"" }, { "web-1", "\"web-1.\"" },
		{ "\"*.lab.example\"", "\"*.lab.example\"" }, { "\"*.LAB\"", "\"*.lab\"" }, { "\"*.lab.\"", "\"*.lab\"" },
		{ "\"*\"", "\"*\" is not for every destination; write any" }, { "\"*.\"", "\"*.\"" STAR },
		{ "\"a.*\"", "\"a.*\"" STAR }, { "\"*a.b\"", "\"*a.b\"" STAR }, { "\"*.*.b\"", "\"*.*.b\"" NO_NAME },
		{ "\"a b\"", "\"a b\"" NO_NAME }, { "-a", "\"-a\"" NO_NAME }, { "a..b", "\"a..b\"" NO_NAME },
		{ "\"\"", "\"\"" NO_NAME }, { "\"a\\0\"", "\"a\\x00\"" NO_NAME }, { "\xc3\xa4.de", "\"\\xc3\\xa4.de\"" NO_NAME },
		{ "\"%61\"", "\"%61\"" NO_NAME },
		/* addresses and blocks */
		{ "192.0.2.7", "\"192.0.2.7/32\"" }, { "\"2001:DB8::7\"", "\"2001:db8::7/128\"" },
		{ "\"[2001:db8::7]\"", "\"2001:db8::7/128\"" },
		{ "10.20.0.0/16", "\"10.20.0.0/16\"" }, { "\"fc00::/7\"", "\"fc00::/7\"" }, { "0.0.0.0/0", "\"0.0.0.0/0\"" },
		{ "\"::/0\"", "\"::/0\"" }, { "\"::ffff:10.0.0.1\"", "\"10.0.0.1/32\"" },
		{ "10.20.0.1/16", "\"10.20.0.1/16\" has bits set behind its length; the network is 10.20.0.0/16" },
		{ "\"fc00::1/7\"", "\"fc00::1/7\" has bits set behind its length; the network is fc00::/7" },
		{ "10.0.0.0/33", "\"10.0.0.0/33\"" NO_BLOCK }, { "10.0.0.0/", "\"10.0.0.0/\"" NO_BLOCK },
		{ "example.org/24", "\"example.org/24\"" NO_BLOCK }, { "10.0.0.0/255.0.0.0", "\"10.0.0.0/255.0.0.0\"" NO_BLOCK },
		{ "\"https://example.org\"", "\"https://example.org\"" NO_BLOCK },
		{ "\"example.org:443\"",
			"\"example.org:443\" is no address; write it as 192.0.2.7 or 2001:db8::7, without brackets and port" },
		{ "10.0.0", "\"10.0.0\" is no address, which a name that ends in a number must be; write it as 192.0.2.7" },
		{ "192.0.2.07", "\"192.0.2.07\" is no address, which a name that ends in a number must be; write it as 192.0.2.7" },
		{ "\"*.192.0.2.7\"", "\"*.192.0.2.7\" puts '*.' before an address; write a block as 10.20.0.0/16" },
		{ "\"[::1\"", "\"[::1\"" NO_NAME },
	};

	check("to", rows, COUNT(rows));
}

#define NO_PORT " is no port; write a number from 1 to 65535, a range as 8000-8100, or any"

Test(conf_rules, ports)
{
	static const struct row rows[] = {
		{ "1", "1" }, { "65535", "65535" }, { "any", "any" }, { "1-65535", "any" }, { "8000-8100", "8000-8100" },
		{ "80-80", "80" }, { "80, 443, 8000-8001", "80, 443, 8000-8001" },
		{ "0", "\"0\"" NO_PORT }, { "65536", "\"65536\"" NO_PORT }, { "080", "\"080\"" NO_PORT }, { "-1", "\"-1\"" NO_PORT },
		{ "1-", "\"1-\"" NO_PORT }, { "1-2-3", "\"1-2-3\"" NO_PORT }, { "80 - 90", "\"80 - 90\"" NO_PORT },
		{ "http", "\"http\"" NO_PORT }, { "0-5", "\"0-5\"" NO_PORT }, { "\"\"", "\"\"" NO_PORT },
		{ "90-80", "\"90-80\" is a range that ends before it begins; write 80-90" },
	};

	check("ports", rows, COUNT(rows));
}

Test(conf_rules, users)
{
	static const struct row rows[] = {
		{ "alice", "alice" }, { "alice, bob", "alice, bob" }, { "off", "\"off\"" }, { "\"a b\"", "\"a b\"" },
		{ "\"a\\\"b\\\\\"", "\"a\\\"b\\\\\"" }, { "\xc3\xa4", "\"\xc3\xa4\"" }, { "123", "\"123\"" },
		{ "\"a:b\"", "\"a:b\" is no user; a name is UTF-8 without ':' and control characters" },
		{ "\"a\\x01\"", "\"a\\x01\" is no user; a name is UTF-8 without ':' and control characters" },
		{ "\"\"", "\"\" is no user; a name has 1 to 255 characters" },
	};

	check("users", rows, COUNT(rows));
}

Test(conf_rules, whole_rules)
{
	struct conf *conf = load_good(
		"policy:\n"
		"  rules:\n"
		"    - { name: lab,  action: allow, to: [loopback, 10.20.0.0/16, \"*.lab.example\"], ports: [any] }\n"
		"    - { action: deny, to: any, ports: 25, users: bob }\n"
		"    - { name: web,  action: allow, to: [www.example.org, any] }\n");
	const struct conf_rule *rules = conf->policy.rules;

	cr_assert_eq(conf->policy.rule_count, 3);
	cr_assert_str_eq(rules[0].name, "lab");
	cr_assert(rules[0].allow);
	cr_assert_eq(rules[0].user_count, 0);
	cr_assert_eq(rules[0].to_count, 3);
	cr_assert(rules[0].to[0].kind == CONF_TO_SET && rules[0].to[0].set == ADDR_SET_LOOPBACK);
	cr_assert(rules[0].to[1].kind == CONF_TO_CIDR && rules[0].to[1].cidr.bits == 112);
	cr_assert(rules[0].to[2].kind == CONF_TO_SUFFIX);
	cr_assert_str_eq(rules[0].to[2].name, "lab.example");
	cr_assert(rules[0].port_count == 1 && rules[0].ports[0].first == 1 && rules[0].ports[0].last == 65535);
	cr_assert(rules[0].where.line == 3 && rules[0].where.column == 7);
	cr_assert_str_eq(rules[1].name, "rule-2");
	cr_assert_not(rules[1].allow);
	cr_assert(rules[1].user_count == 1);
	cr_assert_str_eq(rules[1].users[0], "bob");
	cr_assert(rules[1].to_count == 1 && rules[1].to[0].set == ADDR_SET_ANY);
	cr_assert(rules[1].port_count == 1 && rules[1].ports[0].first == 25 && rules[1].ports[0].last == 25);
	cr_assert(rules[2].to[0].kind == CONF_TO_NAME && rules[2].port_count == 0);
	cr_assert_str_eq(rules[2].to[0].name, "www.example.org");
	conf_unref(conf);
}

/* Without rules the built-in one holds; an empty list denies everything. */
Test(conf_rules, no_rules)
{
	struct conf *conf = load_good("policy: {}\n");

	cr_assert_eq(conf->policy.rule_count, 1);
	cr_assert_str_eq(conf->policy.rules[0].name, "web");
	cr_assert(conf->policy.rules[0].allow && conf->policy.rules[0].to[0].set == ADDR_SET_ANY);
	cr_assert_eq(conf->policy.rules[0].port_count, 0); /* the method's own */
	conf_unref(conf);
	conf = load_good("policy: { rules: [] }\n");
	cr_assert_eq(conf->policy.rule_count, 0);
	conf_unref(conf);
}

Test(conf_rules, set_names)
{
	for (int i = 0; i < ADDR_SET_COUNT; i++)
		cr_assert_not_null(conf_set_name((enum addr_set)i));
	cr_assert_null(conf_set_name(ADDR_SET_COUNT));
}
