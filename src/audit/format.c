/* Records as JSON. Any byte may come in; what goes out is one line of valid UTF-8 that shows the same on every
 * terminal.
 *
 * Texts of strangers are the hard part. What JSON or a terminal would take for more than text is \uXXXX. A text that
 * is no UTF-8 has U+FFFD for each bad byte and a second member NAME_hex with its bytes, so nothing is lost and no
 * parser refuses the line (lone surrogates would be shorter, and many do). A text over its bound ends in "..." and
 * has a member NAME_bytes with its whole length. */
#include "audit/audit_priv.h"

#include "adit/base/clock.h"

struct out {
	char *p, *end;
	bool full;
};

/* Bounds of texts as they stand in the line, escapes included. Their sum with all NAME_hex is below AUDIT_LINE_MAX. */
enum {
	WORD_MAX = 64, /* ids, versions, ciphers, methods */
	NAME_MAX_BYTES = 320, /* users, nodes, rules, SNI */
	TARGET_MAX = 2048,
};

static void put(struct out *o, const char *p, size_t n)
{
	if (o->full || (size_t)(o->end - o->p) < n) {
		o->full = true;
		return;
	}
	memcpy(o->p, p, n);
	o->p += n;
}

static void put_str(struct out *o, const char *s)
{
	put(o, s, strlen(s));
}

static void put_key(struct out *o, const char *key, const char *tail)
{
	put(o, ",\"", 2);
	put_str(o, key);
	put_str(o, tail);
	put(o, "\":", 2);
}

static void put_number(struct out *o, const char *key, const char *tail, unsigned long long n)
{
	char digits[24];
	size_t i = sizeof(digits);

	do
		digits[--i] = (char)('0' + n % 10);
	while ((n /= 10) > 0);
	put_key(o, key, tail);
	put(o, digits + i, sizeof(digits) - i);
}

/* Of our own making: needs no escape. */
static void put_word(struct out *o, const char *key, const char *word)
{
	put_key(o, key, "");
	put(o, "\"", 1);
	put_str(o, word);
	put(o, "\"", 1);
}

/* Bytes of the UTF-8 sequence at p (RFC 3629: no overlong form, no surrogate, nothing over U+10FFFF); 0: there is
 * none. */
static size_t utf8_length(const unsigned char *p, size_t n, unsigned *code)
{
	size_t length = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3
		: p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;

	if (length == 0 || length > n)
		return 0;
	*code = length == 1 ? p[0] : p[0] & (0xffu >> (length + 1));
	for (size_t i = 1; i < length; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (p[i] & 0x3fu);
	}
	if ((length == 3 && *code < 0x800) || (length == 4 && *code < 0x10000) || *code > 0x10ffff ||
	    (*code >= 0xd800 && *code < 0xe000))
		return 0;
	return length;
}

/* Controls, separators of lines and paragraphs, and what changes direction or shows nothing: Unicode's format
 * characters (Cf) and those it calls default-ignorable, tags and variation selectors among them. */
static bool code_is_escaped(unsigned code)
{
	static const struct {
		unsigned first, last;
	} hidden[] = {
		{ 0x00, 0x1f }, { 0x7f, 0x9f }, { 0xad, 0xad }, { 0x34f, 0x34f }, { 0x600, 0x605 }, { 0x61c, 0x61c },
		{ 0x6dd, 0x6dd }, { 0x70f, 0x70f }, { 0x890, 0x891 }, { 0x8e2, 0x8e2 }, { 0x115f, 0x1160 },
		{ 0x17b4, 0x17b5 }, { 0x180b, 0x180f }, { 0x200b, 0x200f }, { 0x2028, 0x202e }, { 0x2060, 0x206f },
		{ 0x3164, 0x3164 }, { 0xfe00, 0xfe0f }, { 0xfeff, 0xfeff }, { 0xffa0, 0xffa0 }, { 0xfff0, 0xfffb },
		{ 0x110bd, 0x110bd }, { 0x110cd, 0x110cd }, { 0x13430, 0x1343f }, { 0x1bca0, 0x1bca3 },
		{ 0x1d173, 0x1d17a }, { 0xe0000, 0xe0fff },
	};

	for (size_t i = 0; i < sizeof(hidden) / sizeof(hidden[0]); i++)
		if (code <= hidden[i].last)
			return code >= hidden[i].first;
	return false;
}

enum { UNIT_MAX = 12 }; /* two halves of a surrogate pair */

/* NOLINTNEXTLINE(misc-no-recursion): one deep, for the halves */
static size_t put_escape(char *unit, unsigned code)
{
	static const char hex[] = "0123456789abcdef";

	if (code > 0xffff) {
		(void)put_escape(unit, 0xd800 + ((code - 0x10000) >> 10));
		return 6 + put_escape(unit + 6, 0xdc00 + (code & 0x3ff));
	}
	memcpy(unit, "\\u", 2);
	for (int i = 0; i < 4; i++)
		unit[2 + i] = hex[code >> (12 - 4 * i) & 15];
	return 6;
}

/* One character at p in its escaped form; bytes taken from p. */
static size_t text_unit(const unsigned char *p, size_t n, char unit[static UNIT_MAX], size_t *unit_n, bool *bad)
{
	unsigned code;
	size_t length = utf8_length(p, n, &code);

	if (length == 0) {
		*bad = true;
		*unit_n = 3;
		memcpy(unit, "\xef\xbf\xbd", 3);
		return 1;
	}
	if (code == '"' || code == '\\') {
		unit[0] = '\\';
		unit[1] = (char)code;
		*unit_n = 2;
	} else if (code_is_escaped(code)) {
		*unit_n = put_escape(unit, code);
	} else {
		memcpy(unit, p, length);
		*unit_n = length;
	}
	return length;
}

static void put_hex(struct out *o, const char *key, const unsigned char *p, size_t n)
{
	static const char hex[] = "0123456789abcdef";

	put_key(o, key, "_hex");
	put(o, "\"", 1);
	for (size_t i = 0; i < n; i++) {
		char two[2] = { hex[p[i] >> 4], hex[p[i] & 15] };

		put(o, two, sizeof(two));
	}
	put(o, "\"", 1);
}

static bool byte_is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

/* Any bytes, at most max of them in the line. */
static void put_text(struct out *o, const char *key, struct slice text, size_t max)
{
	const unsigned char *p = (const unsigned char *)text.p;
	size_t i = 0, used = 0;
	bool bad = false;

	if (text.n == 0)
		return;
	put_key(o, key, "");
	put(o, "\"", 1);
	while (i < text.n) {
		size_t run = i, unit_n, taken;
		char unit[UNIT_MAX];

		while (run < text.n && used + (run - i) < max && byte_is_plain(p[run]))
			run++;
		put(o, text.p + i, run - i);
		used += run - i;
		i = run;
		if (i == text.n)
			break;
		taken = text_unit(p + i, text.n - i, unit, &unit_n, &bad);
		if (used + unit_n > max)
			break;
		put(o, unit, unit_n);
		used += unit_n;
		i += taken;
	}
	if (i < text.n)
		put(o, "...", 3);
	put(o, "\"", 1);
	if (i < text.n)
		put_number(o, key, "_bytes", text.n);
	if (bad)
		put_hex(o, key, p, i);
}

static void put_name(struct out *o, const char *key, const char *text, size_t max)
{
	if (text)
		put_text(o, key, slice_of(text), max);
}

static void put_addr(struct out *o, const char *key, const struct addr *addr)
{
	char text[ADDR_TEXT_SIZE];

	if (!addr || addr->len == 0)
		return;
	put_word(o, key, addr_host_text(addr, text));
	put_number(o, key, "_port", addr_port(addr));
}

/* {"time":...,"kind":... */
static void put_start(struct out *o, int64_t time_us, const char *kind)
{
	char time[CLOCK_TEXT_SIZE];

	put_str(o, "{\"time\":\"");
	put_str(o, clock_text(time_us ? time_us : clock_wall_us(), time));
	put(o, "\"", 1);
	put_word(o, "kind", kind);
}

static size_t finish(struct out *o, char *start)
{
	put(o, "}\n", 2);
	return o->full ? 0 : (size_t)(o->p - start);
}

size_t audit_format(const struct audit_event *event, const char *node, char *out, size_t size)
{
	static const char *const kinds[] = {
		[AUDIT_OPEN] = "open", [AUDIT_PROGRESS] = "progress", [AUDIT_CLOSE] = "close", [AUDIT_DENY] = "deny"
	};
	struct out o = { out, out + size, false };
	bool counts = event->kind == AUDIT_PROGRESS || event->kind == AUDIT_CLOSE;

	put_start(&o, event->time_us, kinds[event->kind]);
	put_name(&o, "id", event->id, WORD_MAX);
	put_name(&o, "connection", event->connection, WORD_MAX);
	put_name(&o, "node", node, NAME_MAX_BYTES);
	put_name(&o, "user", event->user, NAME_MAX_BYTES);
	put_text(&o, "claimed_user", event->claimed_user, NAME_MAX_BYTES);
	put_addr(&o, "client", event->client);
	put_addr(&o, "listener", event->listener);
	put_name(&o, "tls_version", event->tls_version, WORD_MAX);
	put_name(&o, "tls_cipher", event->tls_cipher, WORD_MAX);
	put_name(&o, "tls_sni", event->tls_sni, NAME_MAX_BYTES);
	put_name(&o, "protocol", event->protocol, WORD_MAX);
	put_text(&o, "method", event->method, WORD_MAX);
	put_text(&o, "target", event->target, TARGET_MAX);
	put_addr(&o, "address", event->address);
	put_addr(&o, "local", event->local);
	put_name(&o, "rule", event->rule, NAME_MAX_BYTES);
	if (event->status > 0)
		put_number(&o, "status", "", (unsigned)event->status);
	if (event->kind == AUDIT_CLOSE || event->kind == AUDIT_DENY)
		put_word(&o, "reason", reason_name(event->reason));
	put_name(&o, "half_close", event->half_close, WORD_MAX);
	if (counts || event->bytes_up > 0)
		put_number(&o, "bytes_up", "", event->bytes_up);
	if (counts || event->bytes_down > 0)
		put_number(&o, "bytes_down", "", event->bytes_down);
	if (counts || event->duration_ms > 0)
		put_number(&o, "duration_ms", "", event->duration_ms);
	return finish(&o, out);
}

size_t format_summary(char *out, size_t size, const char *node, int64_t time_us, int64_t since_us,
		      enum reason reason, const struct cidr *prefix, unsigned long long count)
{
	struct out o = { out, out + size, false };
	char text[ADDR_TEXT_SIZE], since[CLOCK_TEXT_SIZE];

	put_start(&o, time_us, "deny_summary");
	put_name(&o, "node", node, NAME_MAX_BYTES);
	put_word(&o, "reason", reason_name(reason));
	put_word(&o, "prefix", prefix ? cidr_text(prefix, text) : "other");
	put_number(&o, "count", "", count);
	put_word(&o, "since", clock_text(since_us, since));
	return finish(&o, out);
}
