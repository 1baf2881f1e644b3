/* Files: what is wrong in them is said, all of it, with its place. */
#include "unit/conf/load.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define DURATION " is not acceptable; write a number with ms, s, m, h or d, "
#define PAC \
	" is not acceptable; write a name or an address that clients can reach and a port, as proxy.example.org:8443, or off\n"

static const struct {
	const char *text, *messages;
} bad_files[] = {
	/* not YAML */
	{ "listen: [", "t.yaml:2:1: not YAML: while parsing a flow node: did not find expected node content\n" },
	{ "a: b: c\n", "t.yaml:1:5: not YAML: mapping values are not allowed in this context\n" },
	{ "workers: 2\n\tuser: x\n", "t.yaml:2:1: not YAML: while scanning a plain scalar: found a tab character that "
		"violates indentation\n" },
	{ "user: \"x\n", "t.yaml:2:1: not YAML: while scanning a quoted scalar: found unexpected end of stream\n" },
	{ "user: adit\nworkers: \xff\n", "t.yaml:2:10: not text in UTF-8: invalid leading UTF-8 octet\n" },
	{ "user: a\x01\n", "t.yaml:1:8: not text in UTF-8: control characters are not allowed\n" },
	{ "\xff\xfeu\0s\0", "t.yaml:1:1: not text in UTF-8: invalid leading UTF-8 octet\n" },
	/* YAML of which nothing good can come */
	{ "a: &x 1\nb: *x\nworkers: 0\n", "t.yaml:2:4: an alias is here (*name); write out what it stands for\n" },
	{ "workers: !!int 2\n", "t.yaml:1:10: a tag is here (!name); leave it out, each key knows the type of its value\n" },
	{ "tls: !x {}\nlisten: !y []\n",
		"t.yaml:1:6: a tag is here (!name); leave it out, each key knows the type of its value\n"
		"t.yaml:2:9: a tag is here (!name); leave it out, each key knows the type of its value\n" },
	{ "workers: 2\n---\nworkers: 3\n", "t.yaml:2:1: a second document begins here; one is allowed\n" },
	{ "a: [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]\n", "t.yaml:1:19: lists and maps are nested deeper than 16 here\n" },
	/* the shape */
	{ "[a, b]\n", "t.yaml:1:1: a list is here; a configuration is a map of keys, as \"listen:\"\n" },
	{ "hello\n", "t.yaml:1:1: a plain value is here; a configuration is a map of keys, as \"listen:\"\n" },
	{ "? [a]\n: b\n", "t.yaml:1:3: a list stands where a key should be\n" },
	{ "tls: on\n", "t.yaml:1:6: tls: a plain value is here; write a map of its keys\n" },
	{ "tls: [a]\n", "t.yaml:1:6: tls: a list is here; write a map of its keys\n" },
	{ "workers: [2]\n", "t.yaml:1:10: workers: a list is here; write a number from 1 to 256, or auto\n" },
	{ "auth:\n  realm: { a: b }\n",
		"t.yaml:2:10: auth.realm: a map is here; write 1 to 128 printable ASCII characters without \" and \\\n" },
	{ "listen: { address: \"[::]:1\" }\n", "t.yaml:1:9: listen: a map is here; write a list of maps or addresses\n" },
	{ "tls:\n  certificates: [a.pem]\n",
		"t.yaml:2:18: tls.certificates[1]: a plain value is here; the list holds maps\n" },
	{ "tls:\n  certificates: a.pem\n", "t.yaml:2:17: tls.certificates: a plain value is here; write a list of maps\n" },
	{ "policy: { rules: [{ action: deny, to: { a: b } }] }\n",
		"t.yaml:1:39: policy.rules[1].to: a map is here; write a list of sets, addresses, blocks and names\n" },
	{ "policy: { rules: [{ action: deny, to: [[any]] }] }\n",
		"t.yaml:1:40: policy.rules[1].to[1]: a list is here; the list holds sets, addresses, blocks and names\n" },
	/* keys */
	{ "lisen:\n  - a\n", "t.yaml:1:1: lisen: unknown key; did you mean listen?\n" },
	{ "auth:\n  htpaswd: /x\n", "t.yaml:2:3: auth.htpaswd: unknown key; did you mean htpasswd?\n" },
	{ "htpasswd: /x\n", "t.yaml:1:1: htpasswd: unknown key; did you mean auth.htpasswd?\n" },
	{ "auth:\n  zzzzzzzz: /x\n", "t.yaml:2:3: auth.zzzzzzzz: unknown key; adit.yaml(5) lists all keys\n" },
	{ "\"a\\nb\": 1\n", "t.yaml:1:1: a\\x0ab: unknown key; adit.yaml(5) lists all keys\n" },
	{ "workers: 2\nuser: a\nworkers: 3\n", "t.yaml:3:1: workers: is there twice; the first is in line 1\n" },
	{ "auth:\n  realm: a\nauth:\n  realm: b\n", "t.yaml:3:1: auth: is there twice; the first is in line 1\n" },
	{ "listen:\n  - { address: \"[::]:1\", address: \"[::]:2\" }\n",
		"t.yaml:2:26: listen[1].address: is there twice; the first is in line 2\n" },
	{ "listen[]: 1\n", "t.yaml:1:1: listen[]: unknown key; did you mean listen?\n" },
	{ "auth.realm: x\n", "t.yaml:1:1: auth.realm: unknown key; adit.yaml(5) lists all keys\n" },
	/* values */
	{ "workers:\n", "t.yaml:1:9: workers: has no value; write a number from 1 to 256, or auto\n" },
	{ "workers: ~\n", "t.yaml:1:10: workers: has no value; write a number from 1 to 256, or auto\n" },
	{ "workers: \"\"\n", "t.yaml:1:10: workers: has no value; write a number from 1 to 256, or auto\n" },
	{ "workers: many\n", "t.yaml:1:10: workers: \"many\" is not acceptable; write a number from 1 to 256, or auto\n" },
	{ "workers: 999\n", "t.yaml:1:10: workers: \"999\" is out of range; write a number from 1 to 256, or auto\n" },
	{ "auth: { cache: 5x }\n", "t.yaml:1:16: auth.cache: \"5x\"" DURATION "from 10ms to 7d\n" },
	{ "deadlines:\n  idle: never\n", "t.yaml:2:9: deadlines.idle: \"never\"" DURATION "from 10ms to 30d, or off\n" },
	{ "tunnel: { buffer: 1KiB }\n", "t.yaml:1:19: tunnel.buffer: \"1KiB\" is out of range; write a number of bytes, or one "
		"with KiB, MiB, GiB, kB, MB or GB, from 64KiB to 16MiB\n" },
	{ "auth: { throttle: { per_prefix: 100 } }\n", "t.yaml:1:33: auth.throttle.per_prefix: \"100\" is not acceptable; "
		"write a rate as 100/s, 100/min or 100/h, from 1 to 1000000, or off\n" },
	{ "auth: { throttle: maybe }\n",
		"t.yaml:1:19: auth.throttle: \"maybe\" is not acceptable; write a map of its keys, or off\n" },
	{ "auth: { throttle: [] }\n", "t.yaml:1:19: auth.throttle: a list is here; write a map of its keys, or off\n" },
	{ "log: { level: loud }\n", "t.yaml:1:15: log.level: \"loud\" is not acceptable; write err, warning, notice, info or "
		"debug\n" },
	{ "tls: { minimum_version: 1.1 }\n",
		"t.yaml:1:25: tls.minimum_version: \"1.1\" is not acceptable; write 1.2 or 1.3\n" },
	{ "user: \"a\\u0000b\"\n", "t.yaml:1:7: user: \"a\\x00b\" is not acceptable; write the name of an account\n" },
	{ "auth: { htpasswd: \"/a\\nb\" }\n",
		"t.yaml:1:19: auth.htpasswd: \"/a\\x0ab\" is not acceptable; write a path in UTF-8 without control characters\n" },
	{ "dial: { source_v4: \"::1\" }\n",
		"t.yaml:1:20: dial.source_v4: \"::1\" is not acceptable; write an IPv4 address without a port\n" },
	/* lists */
	{ "listen:\n", "t.yaml:1:8: listen: has no value; write a list of maps or addresses, or leave the key out\n" },
	{ "listen: []\n",
		"t.yaml:1:9: listen: the list is empty; it needs at least one of its maps or addresses, or leave the key out\n" },
	{ "policy:\n  rules:\n", "t.yaml:2:9: policy.rules: has no value; write a list of maps, or [] for none\n" },
	{ "listen:\n  - { address: localhost:1 }\n  - 1.2.3.4\n",
		"t.yaml:2:16: listen[1].address: \"localhost:1\" is not acceptable; write an address and a port, as \"[::]:8443\" or "
		"192.0.2.1:8443\n"
		"t.yaml:3:5: listen[2]: \"1.2.3.4\" is not acceptable; write an address and a port, as \"[::]:8443\" or "
		"192.0.2.1:8443\n" },
	{ "listen:\n  - { close_after_refusal: on }\n", "t.yaml:2:5: listen[1]: address is missing\n" },
	{ "tls: { certificates: [{ key: k }] }\n", "t.yaml:1:23: tls.certificates[1]: chain is missing\n" },
	{ "dns: { servers: [ns.example, \"1.1.1.1:0\"] }\n",
		"t.yaml:1:18: dns.servers[1]: \"ns.example\" is no name server; write its address, as 192.0.2.53 or "
		"\"[2001:db8::53]:5353\"\n"
		"t.yaml:1:30: dns.servers[2]: \"1.1.1.1:0\" has port 0; leave the port out for 53\n" },
	{ "http:\n  pac: \"[::]:8443\"\n", "t.yaml:2:8: http.pac: \"[::]:8443\"" PAC },
	{ "http: { fields: 1, pac: proxy.example.org }\n", "t.yaml:1:25: http.pac: \"proxy.example.org\"" PAC },
	{ "http: { pac: on }\n", "t.yaml:1:14: http.pac: \"on\"" PAC },
	/* the whole */
	{ "listen:\n  - \"[::]:443\"\n  - 0.0.0.0:443\n  - 127.0.0.1:0\n  - 127.0.0.1:0\n",
		"t.yaml:3:5: listen[2]: 0.0.0.0:443 overlaps entry 1: 0.0.0.0 takes all of IPv4, and [::] all addresses; leave "
		"one of them out\n" },
	{ "listen: [\"[::1]:443\", \"0.0.0.0:443\", \"[::1]:444\", \"192.0.2.1:443\"]\n",
		"t.yaml:1:51: listen[4]: 192.0.2.1:443 overlaps entry 2: 0.0.0.0 takes all of IPv4, and [::] all addresses; leave "
		"one of them out\n" },
	{ "listen: [\"[::1]:443\", \"[::1]:444\", \"[::1]:443\"]\n",
		"t.yaml:1:36: listen[3]: [::1]:443 is listened on already by entry 1; leave one of them out\n" },
	{ "http: { request_line: 64KiB, head: 32KiB }\n",
		"t.yaml: http.head: is 32768 bytes, less than the 65536 of http.request_line\n" },
	{ "policy:\n  rules:\n    - { name: a, action: deny, to: any }\n    - { name: a, action: allow, to: any }\n",
		"t.yaml:4:7: policy.rules[2]: the name a is rule 1's; each rule needs one of its own\n" },
	{ "policy:\n  rules:\n    - { name: rule-2, action: deny, to: any }\n    - { action: allow, to: any }\n",
		"t.yaml:4:7: policy.rules[2]: the name rule-2 is rule 1's; each rule needs one of its own\n" },
	/* all at once */
	{ "listen: x\n"
	  "auth:\n"
	  "  cache: 1\n"
	  "  reelm: a\n"
	  "policy:\n"
	  "  rules:\n"
	  "    - { action: allow, to: [10.0.0.1/8] }\n"
	  "    - { to: any, ports: 0 }\n"
	  "wrkers: 1\n",
		"t.yaml:1:9: listen: \"x\" is not acceptable; write an address and a port, as \"[::]:8443\" or 192.0.2.1:8443\n"
		"t.yaml:3:10: auth.cache: \"1\"" DURATION "from 10ms to 7d\n"
		"t.yaml:4:3: auth.reelm: unknown key; did you mean realm?\n"
		"t.yaml:7:29: policy.rules[1].to[1]: \"10.0.0.1/8\" has bits set behind its length; the network is 10.0.0.0/8\n"
		"t.yaml:8:25: policy.rules[2].ports: \"0\" is no port; write a number from 1 to 65535, a range as 8000-8100, or any\n"
		"t.yaml:8:7: policy.rules[2]: action is missing\n"
		"t.yaml:9:1: wrkers: unknown key; did you mean workers?\n" },
};

Test(conf_yaml, bad_files)
{
	for (size_t i = 0; i < COUNT(bad_files); i++) {
		char *messages = load_bad(bad_files[i].text);

		cr_expect_str_eq(messages, bad_files[i].messages, "%s\nexpected: %s     got: %s", bad_files[i].text,
			bad_files[i].messages, messages);
		free(messages);
	}
}

Test(conf_yaml, nothing_is_fine)
{
	static const char *const rows[] = {
		"", "\n\n", "# comment\n", "---\n", "---\n...\n", "~\n", "{}\n", "tls:\n", "dns: ~\ntls: {}\n", "auth:\n  # all of it\n",
		"%YAML 1.1\n---\n", "\xef\xbb\xbfworkers: 1\n",
	};
	struct conf *standard = load_options(&(struct conf_option){ "workers", "1" }, 1);
	char *expected = load_printed(standard);

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct conf *conf = load_good(rows[i]);
		char *printed;

		conf->workers = 1;
		printed = load_printed(conf);
		cr_assert_str_eq(printed, expected, "%s", rows[i]);
		free(printed);
		conf_unref(conf);
	}
	free(expected);
	conf_unref(standard);
}

/* However much is wrong, what is said has an end, and the rest is counted. */
Test(conf_yaml, errors_are_bounded)
{
	struct conf_errors errors = { .text = NULL };
	char text[1200 * 4 + 1];

	for (int i = 0; i < 1200; i++)
		memcpy(text + i * 4, "x:1\n", 5);
	for (int i = 0; i < 1200; i++)
		text[i * 4 + 2] = ' ';
	cr_assert_null(conf_parse_text("t.yaml", slice_of(text), NULL, 0, &errors));
	cr_assert_eq(errors.count, CONF_ERRORS_MAX);
	cr_assert_eq(errors.left_out, 1200 - CONF_ERRORS_MAX);
	char *said = NULL;
	size_t n = 0;
	FILE *to = open_memstream(&said, &n);
	conf_errors_print(&errors, to);
	fclose(to);
	cr_assert_not_null(strstr(said, "\nand "), "%s", said);
	cr_assert_not_null(strstr(said, " more\n"), "%s", said);
	free(said);
	conf_errors_free(&errors);
	cr_assert_eq(errors.count + errors.left_out, 0);
}

Test(conf_yaml, lists_are_bounded)
{
	char text[4096] = "listen: [", *messages;

	for (int i = 0; i < 65; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "\"127.0.0.1:%d\", ", i + 1);
	snprintf(text + strlen(text), sizeof(text) - strlen(text), "]\n");
	messages = load_bad(text);
	cr_assert(strstr(messages, "listen[") == NULL && strstr(messages, "listen: has more than 64 items\n"), "%s", messages);
	free(messages);
}

/* Every prefix of a good file either loads or is refused with a reason; none crashes. */
Test(conf_yaml, every_prefix)
{
	char *sample = load_file("dist/adit.yaml");

	for (size_t n = strlen(sample) + 1; n-- > 0;) {
		struct conf_errors errors = { .text = NULL };
		char *copy = malloc(n ? n : 1);
		struct conf *conf;

		memcpy(copy, sample, n);
		conf = conf_parse_text("t.yaml", (struct slice){ copy, n }, NULL, 0, &errors);
		cr_assert_eq(conf == NULL, conf_failed(&errors));
		conf_unref(conf);
		conf_errors_free(&errors);
		free(copy);
	}
	free(sample);
}
