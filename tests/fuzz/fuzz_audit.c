/* Hostile bytes in every text of a record: the line must be one line of strict JSON that gives every text back, or says
 * how much of it was cut; and a user's file name must be a plain name that belongs to this user alone. */
#include "adit/audit/audit.h"

#include "unit/audit/json_line.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PARTS = 6, NAME_TEXT_MAX = 4096 };

static struct json_line json;

static void must(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz_audit: %s\n", what);
		abort();
	}
}

static void must_say(const char *key, struct slice text)
{
	const char *wrong = json_says(&json, key, text.p, text.n);

	if (wrong)
		fprintf(stderr, "fuzz_audit: member %s: %s\n", key, wrong);
	must(!wrong, "a text was not given back");
}

/* The name says the user again: every byte is itself or %HH. Long names carry a hash instead. */
static void check_file_name(const char *user)
{
	char name[AUDIT_FILE_NAME_SIZE], back[NAME_TEXT_MAX];
	size_t n = 0;
	const char *p;

	must(audit_file_name(user, name) == name, "out of memory");
	must(strlen(name) < AUDIT_FILE_NAME_SIZE && strlen(name) > 6, "length of the file name");
	must(name[0] != '.' && name[0] != '-' && !strchr(name, '/'), "no plain file name");
	must(strcmp(name + strlen(name) - 6, ".jsonl") == 0, "suffix");
	for (p = name; p < name + strlen(name) - 6; p++) {
		must((unsigned char)*p > 0x20 && (unsigned char)*p < 0x7f, "an unprintable byte in a file name");
		if (*p == '%' && (p[1] == '-' || p[1] == '.'))
			break;
		if (*p == '%') {
			unsigned code;

			must(sscanf(p + 1, "%2X", &code) == 1, "escape in a file name");
			back[n++] = (char)code;
			p += 2;
		} else {
			back[n++] = *p;
		}
	}
	must(strncmp(back, user, n) == 0, "a file name of another user");
	if (*p == '%' && p[1] == '-')
		must(strlen(user) > n && strlen(p) == 2 + 32 + 6, "hash");
	else
		must(strlen(user) == n, "a file name of another user");
}

/* First byte: kind and what else is there. The rest: PARTS texts, separated by 0x1e at first, the last takes all. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char line[AUDIT_LINE_MAX], texts[PARTS][NAME_TEXT_MAX];
	struct slice part[PARTS] = { { NULL, 0 } };
	struct audit_event e = { .time_us = 1 };
	const char *p, *end;
	size_t n;

	if (size == 0)
		return 0;
	e.kind = (enum audit_kind)(data[0] & 3);
	e.reason = (enum reason)(data[0] % REASON_COUNT);
	e.status = data[0] * 4;
	e.bytes_up = data[0] & 8 ? UINT64_MAX : 0;
	p = (const char *)data + 1;
	end = (const char *)data + size;
	for (int i = 0; i < PARTS && p < end; i++) {
		const char *stop = i == PARTS - 1 ? NULL : memchr(p, 0x1e, (size_t)(end - p));

		stop = stop ? stop : end;
		part[i] = (struct slice){ p, (size_t)(stop - p) };
		n = part[i].n < NAME_TEXT_MAX - 1 ? part[i].n : NAME_TEXT_MAX - 1;
		memcpy(texts[i], p, n);
		texts[i][n] = '\0';
		p = stop < end ? stop + 1 : end;
	}
	for (int i = 0; i < PARTS; i++)
		if (!part[i].p)
			texts[i][0] = '\0';
	e.target = part[0];
	e.method = part[1];
	e.claimed_user = part[2];
	e.user = texts[3];
	e.tls_sni = texts[4];
	e.rule = texts[5];

	n = audit_format(&e, texts[3], line, sizeof(line));
	must(n > 0 && n <= sizeof(line), "no line");
	if (!json_line_read(&json, line, n)) {
		fprintf(stderr, "fuzz_audit: %s: %.*s\n", json.wrong, (int)n, line);
		must(false, "not the JSON that was promised");
	}
	must_say("target", e.target);
	must_say("method", e.method);
	must_say("claimed_user", e.claimed_user);
	must_say("user", slice_of(e.user));
	must_say("node", slice_of(e.user));
	must_say("tls_sni", slice_of(e.tls_sni));
	must_say("rule", slice_of(e.rule));
	/* Any smaller buffer: all or nothing. */
	must(audit_format(&e, texts[3], line, n - 1) == 0 && audit_format(&e, texts[3], line, n) == n, "size of the line");
	check_file_name(texts[3]);
	return 0;
}
