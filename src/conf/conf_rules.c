/* What lists hold: destinations, ports and users of rules, name servers. The destinations are the hard part: a
 * misspelt set must not pass for a host's name, or a rule that was to deny a whole network would deny nothing. */
#include "conf/conf_priv.h"

#include "adit/base/mem.h"

#include <stdarg.h>

enum { USER_NAME_MAX = 255, ITEM_SHOWN = 80 };

static bool wrong(char why[static CONF_WHY_SIZE], struct slice text, const char *fmt, ...) ADIT_PRINTF(3, 4);

static bool wrong(char why[static CONF_WHY_SIZE], struct slice text, const char *fmt, ...)
{
	char shown[ITEM_SHOWN];
	va_list args;
	int n = snprintf(why, CONF_WHY_SIZE, "%s ", conf_types_show(text, shown, sizeof(shown)));

	va_start(args, fmt);
	vsnprintf(why + n, CONF_WHY_SIZE - (size_t)n, fmt, args);
	va_end(args);
	return false;
}

static bool no_memory(char why[static CONF_WHY_SIZE])
{
	snprintf(why, CONF_WHY_SIZE, "out of memory");
	return false;
}

const char *conf_set_name(enum addr_set set)
{
	static const char *const names[ADDR_SET_COUNT] = {
		[ADDR_SET_ANY] = "any", [ADDR_SET_PRIVATE] = "private", [ADDR_SET_LOOPBACK] = "loopback",
		[ADDR_SET_LINK_LOCAL] = "link-local", [ADDR_SET_RFC1918] = "rfc1918", [ADDR_SET_ULA] = "ula",
		[ADDR_SET_CGNAT] = "cgnat", [ADDR_SET_METADATA] = "metadata",
	};

	return set < ADDR_SET_COUNT ? names[set] : NULL;
}

/* The set of this name, or ADDR_SET_COUNT; then *near is the one that may have been meant, or NULL. */
static enum addr_set set_find(struct slice text, const char **near)
{
	*near = NULL;
	for (int set = 0; set < ADDR_SET_COUNT; set++) {
		struct slice name = slice_of(conf_set_name((enum addr_set)set));
		unsigned most = name.n <= 3 ? 0 : name.n <= 7 ? 1 : 2;

		if (slice_eq(text, name))
			return (enum addr_set)set;
		/* a name with a dot is meant as a name */
		if (!memchr(text.p, '.', text.n) && conf_table_distance(text, name, most) <= most)
			*near = name.p;
	}
	return ADDR_SET_COUNT;
}

/* "10.20.0.1/16" -> "10.20.0.0/16" for the message; false when text is no address with a length. */
static bool network_of(struct slice text, char buf[static ADDR_TEXT_SIZE])
{
	const char *slash = memchr(text.p, '/', text.n);
	struct addr addr;
	struct cidr net;
	unsigned long long bits;

	if (!slash || !addr_from_literal(&addr, (struct slice){ text.p, (size_t)(slash - text.p) }, 0))
		return false;
	if (!slice_to_u64((struct slice){ slash + 1, (size_t)(text.p + text.n - slash - 1) }, 128, &bits))
		return false;
	if (addr.sa.sa_family == AF_INET && bits > 32)
		return false;
	net = addr_prefix(&addr, (unsigned)bits, (unsigned)bits);
	cidr_text(&net, buf);
	return true;
}

static bool parse_block(struct conf_to *to, struct slice text, char why[static CONF_WHY_SIZE])
{
	char net[ADDR_TEXT_SIZE];
	bool host_bits = false;

	to->kind = CONF_TO_CIDR;
	if (cidr_parse(&to->cidr, text, &host_bits))
		return true;
	if (host_bits && network_of(text, net))
		return wrong(why, text, "has bits set behind its length; the network is %s", net);
	if (memchr(text.p, '/', text.n))
		return wrong(why, text, "is no block of addresses; write it as 10.20.0.0/16 or fc00::/7");
	return wrong(why, text, "is no address; write it as 192.0.2.7 or 2001:db8::7, without brackets and port");
}

/* The last label is of digits. */
static bool ends_in_number(struct slice name)
{
	size_t n = name.n;

	while (n > 0 && name.p[n - 1] >= '0' && name.p[n - 1] <= '9')
		n--;
	return n < name.n && (n == 0 || name.p[n - 1] == '.');
}

static bool parse_name(struct conf_to *to, struct slice text, bool suffix, char why[static CONF_WHY_SIZE])
{
	struct slice name = suffix ? (struct slice){ text.p + 2, text.n - 2 } : text;
	struct host host;
	enum reason verdict = host_parse(name, &host);

	if (verdict == REASON_OK && host.kind == HOST_IS_ADDRESS && suffix)
		return wrong(why, text, "puts '*.' before an address; write a block as 10.20.0.0/16");
	if (verdict == REASON_OK && host.kind == HOST_IS_ADDRESS)
		return parse_block(to, slice_of(host.text), why);
	if (verdict != REASON_OK && ends_in_number(name))
		return wrong(why, text, "is no address, which a name that ends in a number must be; write it as 192.0.2.7");
	if (verdict != REASON_OK)
		return wrong(why, text, "is no set, address, block or name; a name has letters, digits, '-' and '_' in "
			"labels of 1 to 63 characters, 253 in all");
	to->kind = suffix ? CONF_TO_SUFFIX : CONF_TO_NAME;
	to->name = mem_strdup(host.text);
	return to->name || no_memory(why);
}

static bool to_parse(void *item, struct slice text, char why[static CONF_WHY_SIZE])
{
	struct conf_to *to = item;
	const char *near;

	to->set = set_find(text, &near);
	if (to->set != ADDR_SET_COUNT) {
		to->kind = CONF_TO_SET;
		return true;
	}
	to->set = ADDR_SET_ANY;
	if (near)
		return wrong(why, text, "is no set; %s is one (a host of that name is written with a final dot)", near);
	if (slice_eq(text, slice_of("*")))
		return wrong(why, text, "is not for every destination; write any");
	if (text.n > 2 && text.p[0] == '*' && text.p[1] == '.')
		return parse_name(to, text, true, why);
	if (memchr(text.p, '*', text.n))
		return wrong(why, text, "has a '*' where none can be; it stands for first labels alone, as in *.example.org");
	if (memchr(text.p, '/', text.n) || (memchr(text.p, ':', text.n) && text.p[0] != '['))
		return parse_block(to, text, why);
	return parse_name(to, text, false, why);
}

static void to_print(const void *item, FILE *out)
{
	const struct conf_to *to = item;
	char buf[ADDR_TEXT_SIZE];

	switch (to->kind) {
	case CONF_TO_SET:
		ADIT_ASSERT(to->set < ADDR_SET_COUNT);
		fputs(conf_set_name(to->set), out);
		break;
	case CONF_TO_CIDR:
		conf_print_string(cidr_text(&to->cidr, buf), out);
		break;
	case CONF_TO_NAME:
		/* a final dot keeps it from being read as a set's name */
		fprintf(out, "\"%s%s\"", to->name, strchr(to->name, '.') ? "" : ".");
		break;
	case CONF_TO_SUFFIX:
		fprintf(out, "\"*.%s\"", to->name);
		break;
	}
}

static void to_fini(void *item)
{
	struct conf_to *to = item;

	mem_free(to->name);
}

static bool parse_port(struct slice text, uint16_t *out)
{
	unsigned long long n;

	if ((text.n > 1 && text.p[0] == '0') || !slice_to_u64(text, 65535, &n) || n == 0)
		return false;
	*out = (uint16_t)n;
	return true;
}

static bool ports_parse(void *item, struct slice text, char why[static CONF_WHY_SIZE])
{
	struct conf_ports *ports = item;
	const char *dash = memchr(text.p, '-', text.n);
	size_t first = dash ? (size_t)(dash - text.p) : text.n;
	struct slice last = dash ? (struct slice){ dash + 1, text.n - first - 1 } : text;

	if (slice_eq(text, slice_of("any"))) {
		*ports = (struct conf_ports){ 1, 65535 };
		return true;
	}
	if (!parse_port((struct slice){ text.p, first }, &ports->first) || !parse_port(last, &ports->last))
		return wrong(why, text, "is no port; write a number from 1 to 65535, a range as 8000-8100, or any");
	if (ports->first > ports->last)
		return wrong(why, text, "is a range that ends before it begins; write %u-%u", ports->last, ports->first);
	return true;
}

static void ports_print(const void *item, FILE *out)
{
	const struct conf_ports *ports = item;

	if (ports->first == 1 && ports->last == 65535)
		fputs("any", out);
	else if (ports->first == ports->last)
		fprintf(out, "%u", ports->first);
	else
		fprintf(out, "%u-%u", ports->first, ports->last);
}

static bool users_parse_item(void *item, struct slice text, char why[static CONF_WHY_SIZE])
{
	char **user = item;

	if (text.n == 0 || text.n > USER_NAME_MAX)
		return wrong(why, text, "is no user; a name has 1 to %d characters", USER_NAME_MAX);
	if (memchr(text.p, ':', text.n) || !conf_types_printable(text))
		return wrong(why, text, "is no user; a name is UTF-8 without ':' and control characters");
	*user = mem_strndup(text.p, text.n);
	return *user || no_memory(why);
}

static void users_print(const void *item, FILE *out)
{
	conf_print_string(*(char *const *)item, out);
}

static void users_fini(void *item)
{
	mem_free(*(char **)item);
}

static bool servers_parse(void *item, struct slice text, char why[static CONF_WHY_SIZE])
{
	struct addr *addr = item;

	if (!addr_from_literal(addr, text, 53) && !addr_parse(addr, text))
		return wrong(why, text, "is no name server; write its address, as 192.0.2.53 or \"[2001:db8::53]:5353\"");
	if (addr_port(addr) == 0)
		return wrong(why, text, "has port 0; leave the port out for 53");
	return true;
}

static void servers_print(const void *item, FILE *out)
{
	char buf[ADDR_TEXT_SIZE];

	conf_print_string(addr_text(item, buf), out);
}

static void nothing_fini(void *item)
{
	(void)item;
}

const struct conf_items conf_rules_listen = {
	.size = sizeof(struct conf_listen), .where = offsetof(struct conf_listen, where), .bare = true,
	.what = "maps or addresses",
};
const struct conf_items conf_rules_certificates = {
	.size = sizeof(struct conf_certificate), .where = offsetof(struct conf_certificate, where), .what = "maps",
};
const struct conf_items conf_rules_rules = {
	.size = sizeof(struct conf_rule), .where = offsetof(struct conf_rule, where), .what = "maps",
};
const struct conf_items conf_rules_users = {
	.size = sizeof(char *), .parse = users_parse_item, .print = users_print, .fini = users_fini, .what = "user names",
};
const struct conf_items conf_rules_to = {
	.size = sizeof(struct conf_to), .parse = to_parse, .print = to_print, .fini = to_fini,
	.what = "sets, addresses, blocks and names",
};
const struct conf_items conf_rules_ports = {
	.size = sizeof(struct conf_ports), .parse = ports_parse, .print = ports_print, .fini = nothing_fini,
	.what = "ports and ranges",
};
const struct conf_items conf_rules_servers = {
	.size = sizeof(struct addr), .parse = servers_parse, .print = servers_print, .fini = nothing_fini,
	.what = "addresses",
};
