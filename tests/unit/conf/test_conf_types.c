/* Scalars: what each type takes and refuses, at its borders, and how it is printed. */
#include "unit/conf/load.h"

#include <criterion/criterion.h>
#include <stdlib.h>

struct row {
	const char *key, *text;
	const char *printed; /* NULL: refused */
};

static struct conf *fresh(void)
{
	return load_options(NULL, 0);
}

static void check(const struct row *rows, size_t count)
{
	struct conf *conf = fresh();

	for (size_t i = 0; i < count; i++) {
		const struct conf_row *row = conf_table_key(slice_of(rows[i].key));
		char why[CONF_WHY_SIZE] = "", buf[CONF_TEXT_SIZE];
		bool ok;

		cr_assert_not_null(row, "%s", rows[i].key);
		ok = conf_types_parse(row, conf, slice_of(rows[i].text), why);
		cr_assert_eq(ok, rows[i].printed != NULL, "%s: %s: %s", rows[i].key, rows[i].text, why);
		if (!ok)
			cr_assert_neq(why[0], '\0');
		else
			cr_assert_str_eq(conf_types_text(row, conf, buf), rows[i].printed, "%s: %s is printed as %s", rows[i].key,
				rows[i].text, conf_types_text(row, conf, buf));
	}
	conf_unref(conf);
}

Test(conf_types, durations)
{
	static const struct row rows[] = {
		{ "deadlines.head", "10ms", "10ms" }, { "deadlines.head", "9ms", NULL }, { "deadlines.head", "250ms", "250ms" },
		{ "deadlines.head", "1000ms", "1s" }, { "deadlines.head", "30s", "30s" }, { "deadlines.head", "90s", "90s" },
		{ "deadlines.head", "60s", "1m" }, { "deadlines.head", "5m", "5m" }, { "deadlines.head", "1h", "1h" },
		{ "deadlines.head", "24h", "1d" }, { "deadlines.head", "30d", "30d" }, { "deadlines.head", "31d", NULL },
		{ "deadlines.head", "720h", "30d" }, { "deadlines.head", "2592000001ms", NULL },
		{ "deadlines.head", "", NULL }, { "deadlines.head", "5", NULL }, { "deadlines.head", "s", NULL },
		{ "deadlines.head", "-5s", NULL }, { "deadlines.head", "+5s", NULL }, { "deadlines.head", "5 s", NULL },
		{ "deadlines.head", "5S", NULL }, { "deadlines.head", "5sec", NULL }, { "deadlines.head", "1.5s", NULL },
		{ "deadlines.head", "0s", NULL }, { "deadlines.head", "0", NULL }, { "deadlines.head", "off", NULL },
		{ "deadlines.head", "1m30s", NULL }, { "deadlines.head", "010s", "10s" },
		{ "deadlines.head", "18446744073709551616s", NULL }, { "deadlines.head", "18446744073709551615d", NULL },
		{ "deadlines.head", "99999999999999999999999999s", NULL },
		{ "deadlines.lifetime", "off", "off" }, { "deadlines.lifetime", "1d", "1d" }, { "deadlines.lifetime", "on", NULL },
		{ "deadlines.idle", "off", "off" }, { "dns.negative", "off", "off" }, { "dns.negative", "1ms", "1ms" },
		{ "dns.negative", "0s", NULL },
	};

	check(rows, COUNT(rows));
}

Test(conf_types, sizes)
{
	static const struct row rows[] = {
		{ "tunnel.buffer", "65536", "64KiB" }, { "tunnel.buffer", "65535", NULL }, { "tunnel.buffer", "64KiB", "64KiB" },
		{ "tunnel.buffer", "65537", "65537" }, { "tunnel.buffer", "65537B", "65537" }, { "tunnel.buffer", "16MiB", "16MiB" },
		{ "tunnel.buffer", "16777217", NULL }, { "tunnel.buffer", "10MB", "10MB" }, { "tunnel.buffer", "100kB", "100kB" },
		{ "tunnel.buffer", "100KB", "100kB" }, { "tunnel.buffer", "1GiB", NULL }, { "tunnel.buffer", "1M", NULL },
		{ "tunnel.buffer", "1mb", NULL }, { "tunnel.buffer", "1 MiB", NULL }, { "tunnel.buffer", "-1", NULL },
		{ "tunnel.buffer", "", NULL }, { "tunnel.buffer", "KiB", NULL }, { "tunnel.buffer", "0", NULL },
		{ "tunnel.buffer", "off", NULL }, { "tunnel.buffer", "16777216TiB", NULL },
		{ "audit.strangers_max", "1GiB", "1GiB" }, { "audit.strangers_max", "100MB", "100MB" },
		{ "audit.strangers_max", "1TiB", "1TiB" }, { "audit.strangers_max", "1024GiB", "1TiB" },
		{ "audit.strangers_max", "1TB", "1TB" }, { "audit.strangers_max", "2TiB", NULL },
	};

	check(rows, COUNT(rows));
}

Test(conf_types, counts_and_rates)
{
	static const struct row rows[] = {
		{ "workers", "1", "1" }, { "workers", "256", "256" }, { "workers", "257", NULL }, { "workers", "0", NULL },
		{ "workers", "auto", "auto" }, { "workers", "off", NULL }, { "workers", "Auto", NULL },
		{ "workers", "1e1", NULL }, { "workers", "0x1", NULL }, { "workers", "18446744073709551617", NULL },
		{ "limits.connections", "off", "off" }, { "limits.connections", "0", NULL }, { "limits.connections", "1", "1" },
		{ "limits.connections", "10000000", "10000000" }, { "limits.connections", "10000001", NULL },
		{ "limits.connections", "auto", NULL }, { "http.fields", "1000", "1000" }, { "http.fields", "1001", NULL },
		{ "auth.throttle.per_prefix", "100/min", "100/min" }, { "auth.throttle.per_prefix", "1/s", "1/s" },
		{ "auth.throttle.per_prefix", "20/h", "20/h" }, { "auth.throttle.per_prefix", "off", "off" },
		{ "auth.throttle.per_prefix", "0/s", NULL }, { "auth.throttle.per_prefix", "100", NULL },
		{ "auth.throttle.per_prefix", "/s", NULL }, { "auth.throttle.per_prefix", "5/m", NULL },
		{ "auth.throttle.per_prefix", "5/d", NULL }, { "auth.throttle.per_prefix", "5 / s", NULL },
		{ "auth.throttle.per_prefix", "5/s/s", NULL }, { "auth.throttle.per_prefix", "1000001/s", NULL },
		{ "auth.throttle.per_prefix", "99999999999999999999/s", NULL },
	};

	check(rows, COUNT(rows));
}

Test(conf_types, words)
{
	static const struct row rows[] = {
		{ "auth.throttle", "off", "off" }, { "auth.throttle", "on", "on" }, { "auth.throttle", "false", "off" },
		{ "auth.throttle", "true", "on" }, { "auth.throttle", "yes", NULL }, { "auth.throttle", "1", NULL },
		{ "auth.throttle", "", NULL }, { "auth.throttle", "On", NULL },
		{ "tls.minimum_version", "1.2", "1.2" }, { "tls.minimum_version", "1.3", "1.3" },
		{ "tls.minimum_version", "1", NULL }, { "tls.minimum_version", "1.2|1.3", NULL },
		{ "tls.minimum_version", "TLSv1.2", NULL },
		{ "audit.on_failure", "allow", "allow" }, { "audit.on_failure", "deny", "deny" }, { "audit.on_failure", "den", NULL },
		{ "log.level", "err", "err" }, { "log.level", "warning", "warning" }, { "log.level", "notice", "notice" },
		{ "log.level", "info", "info" }, { "log.level", "debug", "debug" }, { "log.level", "error", NULL },
		{ "log.level", "debug|", NULL }, { "log.level", "", NULL },
	};

	check(rows, COUNT(rows));
}

Test(conf_types, strings)
{
	static char long_path[4097], long_realm[130];
	const struct row rows[] = {
		{ "auth.htpasswd", "/etc/users", "/etc/users" }, { "auth.htpasswd", "users", "users" },
		{ "auth.htpasswd", "/with space/\xc3\xa4", "/with space/\xc3\xa4" }, { "auth.htpasswd", "", NULL },
		{ "auth.htpasswd", "/a\nb", NULL }, { "auth.htpasswd", "/a\x7f", NULL }, { "auth.htpasswd", "/\xff", NULL },
		{ "auth.htpasswd", "/\xc3", NULL }, { "auth.htpasswd", "/\xc0\xaf", NULL }, { "auth.htpasswd", "/\xed\xa0\x80", NULL },
		{ "auth.htpasswd", "/\xf4\x90\x80\x80", NULL }, { "auth.htpasswd", "/\xe0\x80\xaf", NULL },
		{ "auth.htpasswd", "/\xc2\x85", NULL }, { "auth.htpasswd", "/\xe2\x80\xa8", NULL },
		{ "auth.htpasswd", "/\xef\xbb\xbf", NULL }, { "auth.htpasswd", "/\xef\xbf\xbf", NULL },
		{ "auth.htpasswd", "/\xf0\x9f\x98\x80", "/\xf0\x9f\x98\x80" }, { "auth.htpasswd", long_path, NULL },
		{ "auth.htpasswd", long_path + 1, long_path + 1 },
		{ "auth.realm", "our proxy", "our proxy" }, { "auth.realm", "a\"b", NULL }, { "auth.realm", "a\\b", NULL },
		{ "auth.realm", "\xc3\xa4", NULL }, { "auth.realm", "", NULL }, { "auth.realm", long_realm, NULL },
		{ "auth.realm", long_realm + 1, long_realm + 1 },
		{ "audit.node", "proxy-1.example", "proxy-1.example" }, { "audit.node", "a/b", NULL }, { "audit.node", "a b", NULL },
		{ "user", "adit", "adit" }, { "user", "_adit", "_adit" }, { "user", "0", NULL }, { "user", "a:b", NULL },
	};

	memset(long_path, 'x', 4096);
	memset(long_realm, 'x', 129);
	check(rows, COUNT(rows));
}

/* A host with its port, in the form in which it stands in a URL. What gets through here gets into a script. */
Test(conf_types, authorities)
{
	static char longest[64 * 4 + 6];
	const struct row rows[] = {
		{ "http.pac", "proxy.example.org:8443", "proxy.example.org:8443" }, { "http.pac", "off", "off" },
		{ "http.pac", "Proxy.Example.ORG.:443", "proxy.example.org:443" }, { "http.pac", "proxy:1", "proxy:1" },
		{ "http.pac", "off:8443", "off:8443" }, { "http.pac", "192.0.2.1:65535", "192.0.2.1:65535" },
		{ "http.pac", "[2001:DB8:0::1]:8443", "[2001:db8::1]:8443" }, { "http.pac", longest, longest },
		{ "http.pac", "on", NULL }, { "http.pac", "", NULL }, { "http.pac", "proxy.example.org", NULL },
		{ "http.pac", "proxy.example.org:", NULL }, { "http.pac", ":8443", NULL }, { "http.pac", "8443", NULL },
		{ "http.pac", "proxy.example.org:0", NULL }, { "http.pac", "proxy.example.org:65536", NULL },
		{ "http.pac", "proxy.example.org:08443", NULL }, { "http.pac", "https://proxy.example.org:8443", NULL },
		{ "http.pac", "proxy.example.org:8443/", NULL }, { "http.pac", "alice@proxy.example.org:8443", NULL },
		{ "http.pac", "2001:db8::1", NULL }, { "http.pac", "2001:db8::1:8443", NULL }, { "http.pac", "256.0.0.1:1", NULL },
		{ "http.pac", "-x.example.org:1", NULL }, { "http.pac", "a..b:1", NULL }, { "http.pac", "*.example.org:1", NULL },
		{ "http.pac", "a\";alert(1)//:1", NULL }, { "http.pac", "a b:1", NULL }, { "http.pac", "\xc3\xa4.example:1", NULL },
		{ "http.pac", "a; DIRECT:1", NULL }, { "http.pac", "[::]:8443", NULL }, { "http.pac", "0.0.0.0:8443", NULL },
	};

	memset(longest, 'x', 253);
	longest[63] = longest[127] = longest[191] = '.';
	memcpy(longest + 253, ":443", 5);
	check(rows, COUNT(rows));
}

/* A string that is off is none, whatever it was before. */
Test(conf_types, a_string_is_switched_off)
{
	struct conf *conf = fresh();
	const struct conf_row *row = conf_table_key(slice_of("http.pac"));
	char why[CONF_WHY_SIZE];

	cr_assert_null(conf->http.pac, "off is the default");
	cr_assert(conf_types_parse(row, conf, slice_of("proxy.example.org:1"), why));
	cr_assert_str_eq(conf->http.pac, "proxy.example.org:1");
	cr_assert(conf_types_parse(row, conf, slice_of("off"), why));
	cr_assert_null(conf->http.pac);
	conf_unref(conf);
}

Test(conf_types, addresses)
{
	static const struct row rows[] = {
		{ "dial.source_v4", "192.0.2.1", "192.0.2.1" }, { "dial.source_v4", "::1", NULL },
		{ "dial.source_v4", "192.0.2.1:80", NULL }, { "dial.source_v4", "192.0.2.01", NULL },
		{ "dial.source_v4", "host", NULL }, { "dial.source_v4", "", NULL },
		{ "dial.source_v6", "2001:DB8::1", "2001:db8::1" }, { "dial.source_v6", "[::1]", NULL },
		{ "dial.source_v6", "192.0.2.1", NULL }, { "dial.source_v6", "::ffff:192.0.2.1", NULL },
		{ "dial.source_v6", "fe80::1%eth0", NULL },
	};

	check(rows, COUNT(rows));
}

/* A refused value leaves what was there. */
Test(conf_types, refused_values_change_nothing)
{
	struct conf *conf = fresh();
	char *before = load_printed(conf), *after;
	const struct conf_row *row;
	char why[CONF_WHY_SIZE];

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++)
		if (row->type != CONF_LIST && !strstr(row->key, "[]"))
			cr_assert_not(conf_types_parse(row, conf, slice_of("\x01 not a value"), why), "%s", row->key);
	after = load_printed(conf);
	cr_assert_str_eq(before, after);
	free(before);
	free(after);
	conf_unref(conf);
}
