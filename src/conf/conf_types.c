/* One scalar of the configuration: its text becomes a member of the snapshot, and the member text again. What is
 * hard is to say, for each way a text can be wrong, what would be right. */
#include "conf/conf_priv.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"

#include <limits.h>
#include <stdarg.h>

struct unit {
	const char *name;
	unsigned long long factor;
};

/* A value is printed with the unit that makes its number the smallest; of several the first. */
static const struct unit durations[] = {
	{ "d", 86400000 }, { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 }, { NULL, 0 },
};
static const struct unit sizes[] = {
	{ "TiB", 1ull << 40 }, { "GiB", 1ull << 30 }, { "MiB", 1ull << 20 }, { "KiB", 1ull << 10 },
	{ "TB", 1000000000000ull }, { "GB", 1000000000 }, { "MB", 1000000 }, { "kB", 1000 }, { "KB", 1000 },
	{ "B", 1 }, { "", 1 }, { NULL, 0 },
};
static const struct unit rates[] = { { "/s", 1000 }, { "/min", 60000 }, { "/h", 3600000 }, { NULL, 0 } };

static const struct {
	size_t most;
	bool first_letter; /* the first character is a letter or '_' */
	const char *also; /* allowed besides letters and digits; NULL: every printable character */
	const char *allowed;
} strings[] = {
	[CONF_STRING_PATH] = { 4095, false, NULL, "a path in UTF-8 without control characters" },
	[CONF_STRING_REALM] = { 128, false, NULL, "1 to 128 printable ASCII characters without \" and \\" },
	[CONF_STRING_NODE] = { 253, false, "._-", "1 to 253 letters, digits, '.', '_' and '-'" },
	[CONF_STRING_ACCOUNT] = { 64, true, "._-$", "the name of an account" },
	[CONF_STRING_RULE] = { 64, false, "._-", "1 to 64 letters, digits, '.', '_' and '-', but not the word default" },
	[CONF_STRING_AUTHORITY] = { HOST_TEXT_MAX + 9, false, "._-:[]",
		"a name or an address that clients can reach and a port, as proxy.example.org:8443, or off" },
};

static bool wrong(char why[static CONF_WHY_SIZE], const char *fmt, ...) ADIT_PRINTF(2, 3);

static bool wrong(char why[static CONF_WHY_SIZE], const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, CONF_WHY_SIZE, fmt, args);
	va_end(args);
	return false;
}

const char *conf_types_show(struct slice value, char *buf, size_t size)
{
	size_t n;

	buf[0] = '"';
	log_safe(value, buf + 1, size - 2);
	n = strlen(buf);
	memcpy(buf + n, "\"", 2);
	return buf;
}

/* What a count is good for differs by its member: unsigned or size_t. */
static void store(const struct conf_row *row, void *base, unsigned long long n)
{
	void *at = (char *)base + row->offset;

	if (row->size == sizeof(bool))
		*(bool *)at = n != 0;
	else if (row->size == sizeof(unsigned))
		*(unsigned *)at = (unsigned)n;
	else
		*(size_t *)at = (size_t)n;
}

static unsigned long long fetch(const struct conf_row *row, const void *base)
{
	const void *at = (const char *)base + row->offset;

	if (row->size == sizeof(bool))
		return *(const bool *)at;
	if (row->size == sizeof(unsigned))
		return *(const unsigned *)at;
	return *(const size_t *)at;
}

/* Digits, then a unit of the table (which may be none). False when it is not that. Too large a number counts as
 * ULLONG_MAX. */
static bool parse_units(struct slice text, const struct unit *units, unsigned long long *out)
{
	unsigned long long n = 0;
	size_t digits = 0;

	while (digits < text.n && text.p[digits] >= '0' && text.p[digits] <= '9')
		digits++;
	if (digits == 0)
		return false;
	if (!slice_to_u64((struct slice){ text.p, digits }, ULLONG_MAX / 2, &n))
		n = ULLONG_MAX;
	text = (struct slice){ text.p + digits, text.n - digits };
	for (; units->name; units++) {
		if (!slice_eq(text, slice_of(units->name)))
			continue;
		*out = n > ULLONG_MAX / units->factor ? ULLONG_MAX : n * units->factor;
		return true;
	}
	return false;
}

static const char *print_units(unsigned long long n, const struct unit *units, char *buf, size_t size)
{
	const struct unit *best = NULL;

	for (; units->name; units++)
		if (n % units->factor == 0 && (!best || n / units->factor < n / best->factor))
			best = units;
	ADIT_ASSERT(best); /* each table has a unit of 1 */
	/* cppcheck-suppress nullPointer ; the assertion does not return */
	snprintf(buf, size, "%llu%s", n / best->factor, strcmp(best->name, "B") == 0 ? "" : best->name);
	return buf;
}

static const char *print_number(const struct conf_row *row, unsigned long long n, char *buf, size_t size)
{
	if (row->type == CONF_DURATION)
		return print_units(n, durations, buf, size);
	if (row->type == CONF_SIZE)
		return print_units(n, sizes, buf, size);
	snprintf(buf, size, "%llu", n);
	return buf;
}

const char *conf_types_allowed(const struct conf_row *row, char *buf, size_t size)
{
	static const char *const what[] = {
		[CONF_COUNT] = "a number", [CONF_DURATION] = "a number with ms, s, m, h or d,",
		[CONF_SIZE] = "a number of bytes, or one with KiB, MiB, GiB, kB, MB or GB,",
		[CONF_RATE] = "a rate as 100/s, 100/min or 100/h,",
	};
	char least[CONF_TEXT_SIZE], most[CONF_TEXT_SIZE];
	size_t n;

	switch (row->type) {
	case CONF_BOOL:
		snprintf(buf, size, "on or off");
		return buf;
	case CONF_SWITCH:
		snprintf(buf, size, "a map of its keys, or off");
		return buf;
	case CONF_CHOICE:
		snprintf(buf, size, "%s", row->choices);
		for (char *bar = buf; (bar = strchr(bar, '|')) != NULL;) {
			size_t at = (size_t)(bar - buf);
			bool last = !strchr(bar + 1, '|');
			char rest[CONF_WHY_SIZE];

			snprintf(rest, sizeof(rest), "%s%s", last ? " or " : ", ", bar + 1);
			snprintf(bar, size - at, "%s", rest);
		}
		return buf;
	case CONF_STRING:
		snprintf(buf, size, "%s", strings[row->string].allowed);
		return buf;
	case CONF_ADDRESS:
		snprintf(buf, size, "an address and a port, as \"[::]:8443\" or 192.0.2.1:8443");
		return buf;
	case CONF_HOST:
		snprintf(buf, size, "an IPv%d address without a port", row->least == AF_INET ? 4 : 6);
		return buf;
	case CONF_COUNT: case CONF_DURATION: case CONF_SIZE: case CONF_RATE:
		snprintf(buf, size, "%s from %s to %s%s%s", what[row->type],
			print_number(row, row->least, least, sizeof(least)),
			print_number(row, row->most, most, sizeof(most)), row->flags & CONF_MAY_OFF ? ", or off" : "",
			row->flags & CONF_MAY_AUTO ? ", or auto" : "");
		return buf;
	case CONF_SECTION: case CONF_LIST:
		break;
	}
	n = (size_t)snprintf(buf, size, row->type == CONF_LIST ? "a list" : "a map of its keys");
	if (row->items && row->items->what)
		snprintf(buf + n, size - n, " of %s", row->items->what);
	return buf;
}

static bool parse_bool(struct slice text, bool *out)
{
	*out = slice_eq(text, slice_of("on")) || slice_eq(text, slice_of("true"));
	return *out || slice_eq(text, slice_of("off")) || slice_eq(text, slice_of("false"));
}

static bool parse_number(const struct conf_row *row, void *base, struct slice text, bool *in_range)
{
	unsigned long long n;
	size_t slash = 0;

	*in_range = true;
	if (row->type == CONF_RATE) {
		struct conf_rate *rate = (struct conf_rate *)(void *)((char *)base + row->offset);
		unsigned long long count;

		while (slash < text.n && text.p[slash] != '/')
			slash++;
		if (!slice_to_u64((struct slice){ text.p, slash }, ULLONG_MAX / 2, &count))
			return false;
		for (const struct unit *u = rates; u->name; u++) {
			if (!slice_eq((struct slice){ text.p + slash, text.n - slash }, slice_of(u->name)))
				continue;
			*in_range = count >= row->least && count <= row->most;
			if (*in_range)
				*rate = (struct conf_rate){ (unsigned)count, (unsigned)u->factor };
			return true;
		}
		return false;
	}
	if (row->type == CONF_COUNT ? !slice_to_u64(text, ULLONG_MAX / 2, &n) :
				      !parse_units(text, row->type == CONF_SIZE ? sizes : durations, &n))
		return false;
	*in_range = n >= row->least && n <= row->most;
	if (*in_range)
		store(row, base, n);
	return true;
}

static void set_off(const struct conf_row *row, void *base)
{
	if (row->type == CONF_STRING) {
		char **at = (char **)(void *)((char *)base + row->offset);

		mem_free(*at);
		*at = NULL;
	} else if (row->type == CONF_RATE) {
		*(struct conf_rate *)(void *)((char *)base + row->offset) = (struct conf_rate){ 0, 1000 };
	} else {
		store(row, base, row->type == CONF_DURATION && !(row->flags & CONF_OFF_ZERO) ? CONF_OFF : 0);
	}
}

static bool parse_choice(const struct conf_row *row, void *base, struct slice text)
{
	unsigned long long place = row->least;

	for (const char *word = row->choices; word; place++) {
		const char *bar = strchr(word, '|');

		if (slice_eq(text, (struct slice){ word, bar ? (size_t)(bar - word) : strlen(word) })) {
			store(row, base, place);
			return true;
		}
		word = bar ? bar + 1 : NULL;
	}
	return false;
}

/* Takes one character of UTF-8 off the text; its code point, or UINT32_MAX when it is not well-formed. */
static uint32_t next_char(struct slice *text)
{
	static const uint32_t smallest[] = { 0, 0x80, 0x800, 0x10000 };
	unsigned char lead = (unsigned char)text->p[0];
	size_t more = lead < 0x80 ? 0 : lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
	uint32_t c = more == 0 ? lead : lead & (0x3fu >> more);

	if ((lead >= 0x80 && lead < 0xc2) || lead > 0xf4 || text->n <= more)
		return UINT32_MAX;
	for (size_t i = 1; i <= more; i++) {
		if (((unsigned char)text->p[i] & 0xc0) != 0x80)
			return UINT32_MAX;
		c = c << 6 | ((unsigned char)text->p[i] & 0x3f);
	}
	*text = (struct slice){ text->p + more + 1, text->n - more - 1 };
	return c < smallest[more] || (c >= 0xd800 && c < 0xe000) || c > 0x10ffff ? UINT32_MAX : c;
}

/* Well-formed, without control characters, line and paragraph separators, byte order marks and non-characters:
 * what can be printed into a YAML file and read again. */
bool conf_types_printable(struct slice text)
{
	while (text.n > 0) {
		uint32_t c = next_char(&text);

		if (c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x2028 || c == 0x2029 || c == 0xfeff)
			return false;
		if (c == UINT32_MAX || (c & 0xfffe) == 0xfffe)
			return false;
	}
	return true;
}

/* host:port in canonical form, as it stands in URLs. The wildcards are addresses to listen on, nobody reaches them. */
static bool canonical_authority(struct slice text, char *out, size_t size)
{
	struct authority a;
	bool v6;

	if (authority_parse(text, &a) != REASON_OK)
		return false;
	v6 = a.host.kind == HOST_IS_ADDRESS && a.host.addr.sa.sa_family == AF_INET6;
	snprintf(out, size, "%s%s%s:%u", v6 ? "[" : "", a.host.text, v6 ? "]" : "", (unsigned)a.port);
	return a.host.kind != HOST_IS_ADDRESS || (strcmp(a.host.text, "0.0.0.0") != 0 && strcmp(a.host.text, "::") != 0);
}

static bool string_allowed(enum conf_string kind, struct slice text)
{
	char authority[HOST_TEXT_MAX + sizeof("[]:65535")];

	if (text.n == 0 || text.n > strings[kind].most || !conf_types_printable(text))
		return false;
	for (size_t i = 0; i < text.n; i++) {
		unsigned char c = (unsigned char)text.p[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');

		if (kind == CONF_STRING_REALM && (c >= 0x80 || c == '"' || c == '\\'))
			return false;
		if (strings[kind].first_letter && i == 0 && !letter && c != '_')
			return false;
		if (strings[kind].also && !letter && !(c >= '0' && c <= '9') && !strchr(strings[kind].also, c))
			return false;
	}
	if (kind == CONF_STRING_AUTHORITY)
		return canonical_authority(text, authority, sizeof(authority));
	/* policy answers name the end of the rules "default" */
	return kind != CONF_STRING_RULE || !slice_eq(text, slice_of("default"));
}

static bool parse_string(const struct conf_row *row, void *base, struct slice text, char why[static CONF_WHY_SIZE])
{
	char **at = (char **)(void *)((char *)base + row->offset);
	char authority[HOST_TEXT_MAX + sizeof("[]:65535")];
	char *copy;

	if (row->string == CONF_STRING_AUTHORITY && canonical_authority(text, authority, sizeof(authority)))
		text = slice_of(authority);
	if (!(copy = mem_strndup(text.p, text.n)))
		return wrong(why, "out of memory");
	mem_free(*at);
	*at = copy;
	return true;
}

static bool parse_address(const struct conf_row *row, void *base, struct slice text)
{
	struct addr addr = { .len = 0 };

	if (row->type == CONF_HOST) {
		if (!addr_from_literal(&addr, text, 0) || addr.sa.sa_family != (sa_family_t)row->least)
			return false;
	} else if (!addr_parse(&addr, text)) {
		return false;
	}
	memcpy((char *)base + row->offset, &addr, sizeof(addr));
	return true;
}

bool conf_types_parse(const struct conf_row *row, void *base, struct slice text, char why[static CONF_WHY_SIZE])
{
	char shown[80], allowed[CONF_WHY_SIZE / 2];
	bool ok = false, in_range = true, on;

	if (text.n == 0)
		return wrong(why, "has no value; write %s", conf_types_allowed(row, allowed, sizeof(allowed)));
	if ((row->flags & CONF_MAY_OFF) && slice_eq(text, slice_of("off"))) {
		set_off(row, base);
		return true;
	}
	if ((row->flags & CONF_MAY_AUTO) && slice_eq(text, slice_of("auto"))) {
		store(row, base, 0);
		return true;
	}
	switch (row->type) {
	case CONF_BOOL: case CONF_SWITCH:
		if ((ok = parse_bool(text, &on)))
			store(row, base, on);
		break;
	case CONF_CHOICE:
		ok = parse_choice(row, base, text);
		break;
	case CONF_COUNT: case CONF_DURATION: case CONF_SIZE: case CONF_RATE:
		ok = parse_number(row, base, text, &in_range);
		break;
	case CONF_STRING:
		if (string_allowed(row->string, text))
			return parse_string(row, base, text, why);
		break;
	case CONF_ADDRESS: case CONF_HOST:
		ok = parse_address(row, base, text);
		break;
	case CONF_SECTION: case CONF_LIST:
		break;
	}
	conf_types_show(text, shown, sizeof(shown));
	conf_types_allowed(row, allowed, sizeof(allowed));
	if (!ok)
		return wrong(why, "%s is not acceptable; write %s", shown, allowed);
	return in_range || wrong(why, "%s is out of range; write %s", shown, allowed);
}

const char *conf_types_text(const struct conf_row *row, const void *base, char buf[static CONF_TEXT_SIZE])
{
	const void *at = (const char *)base + row->offset;
	unsigned long long n;

	switch (row->type) {
	case CONF_STRING:
		return *(char *const *)at ? *(char *const *)at : row->flags & CONF_MAY_OFF ? "off" : NULL;
	case CONF_ADDRESS: case CONF_HOST: {
		const struct addr *addr = at;

		if (addr->len == 0)
			return NULL;
		return row->type == CONF_HOST ? addr_host_text(addr, buf) : addr_text(addr, buf);
	}
	case CONF_BOOL: case CONF_SWITCH:
		return fetch(row, base) ? "on" : "off";
	case CONF_CHOICE: {
		const char *word = row->choices;

		for (n = fetch(row, base) - row->least; n > 0; n--)
			word = strchr(word, '|') + 1;
		snprintf(buf, CONF_TEXT_SIZE, "%.*s", (int)strcspn(word, "|"), word);
		return buf;
	}
	case CONF_RATE: {
		const struct conf_rate *rate = at;
		const struct unit *u = rates;

		if (rate->count == 0)
			return "off";
		while (u->factor != rate->per_ms)
			u++;
		snprintf(buf, CONF_TEXT_SIZE, "%u%s", rate->count, u->name);
		return buf;
	}
	case CONF_COUNT: case CONF_DURATION: case CONF_SIZE:
		n = fetch(row, base);
		if ((row->flags & CONF_MAY_OFF) && (n == 0 || (row->type == CONF_DURATION && n == CONF_OFF)))
			return "off";
		if ((row->flags & CONF_MAY_AUTO) && n == 0)
			return "auto";
		return print_number(row, n, buf, CONF_TEXT_SIZE);
	case CONF_SECTION: case CONF_LIST:
		break;
	}
	return NULL;
}

bool conf_types_equal(const struct conf_row *row, const void *a, const void *b)
{
	char first[CONF_TEXT_SIZE], second[CONF_TEXT_SIZE];
	const char *x = conf_types_text(row, a, first), *y = conf_types_text(row, b, second);

	return x && y ? strcmp(x, y) == 0 : x == y;
}
