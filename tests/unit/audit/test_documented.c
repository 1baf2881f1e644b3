/* docs/audit.md has a table of all members of records: none that can be written is missing there, and none stands there
 * that cannot be. */
#include "unit/audit/support.h"

#include <stdlib.h>

static char *page_read(void)
{
	const char *root = getenv("ADIT_SRCDIR");
	char path[SUPPORT_PATH_MAX], *text;
	size_t n;

	snprintf(path, sizeof(path), "%s/docs/audit.md", root ? root : ".");
	text = support_read(path, &n);
	cr_assert_not_null(text, "%s", path);
	return text;
}

/* The name stands between backticks in the first column of the table. */
static bool page_has(const char *table, const char *name)
{
	char wanted[64];

	snprintf(wanted, sizeof(wanted), "`%s`", name);
	for (const char *line = table; *line == '|'; line = strchr(line, '\n') + 1) {
		const char *at = strstr(line, wanted);

		if (at && at < strchr(line + 1, '|'))
			return true;
	}
	return false;
}

static bool record_has(const struct json_line *j, const char *name, size_t n)
{
	for (size_t i = 0; i < j->count; i++)
		if (strlen(j->members[i].key) == n && strncmp(j->members[i].key, name, n) == 0)
			return true;
	return false;
}

/* Every member that there is, in one record: no access has all of them. */
static void read_all(struct json_line *all, struct json_line *summary)
{
	char line[AUDIT_LINE_MAX];
	struct audit_event event = {
		.kind = AUDIT_CLOSE, .id = "i", .connection = "c", .user = "u", .claimed_user = slice_of("u"), .tls_version = "v",
		.tls_cipher = "c", .tls_sni = "s", .protocol = "p", .method = slice_of("m"), .target = slice_of("t"), .rule = "r",
		.status = 200, .half_close = "clean",
	};
	struct addr addr;
	struct cidr prefix;
	size_t n;

	cr_assert(addr_parse(&addr, slice_of("192.0.2.7:50123")));
	event.client = event.listener = event.address = event.local = &addr;
	n = audit_format(&event, "node", line, sizeof(line));
	cr_assert(json_line_read(all, line, n), "%s", all->wrong);
	prefix = addr_prefix(&addr, 24, 48);
	n = format_summary(line, sizeof(line), "node", 0, 1, REASON_AUTH_FAILED, &prefix, 3);
	cr_assert(json_line_read(summary, line, n), "%s", summary->wrong);
}

Test(documented, members)
{
	static struct json_line all, summary;
	char *page = page_read(), *table = strstr(page, "\n| `time`");

	cr_assert_not_null(table, "docs/audit.md: no table that begins with `time`");
	table++;
	read_all(&all, &summary);
	for (size_t i = 0; i < all.count; i++)
		cr_expect(page_has(table, all.members[i].key), "docs/audit.md: `%s` is missing", all.members[i].key);
	for (size_t i = 0; i < summary.count; i++)
		cr_expect(page_has(table, summary.members[i].key), "docs/audit.md: `%s` is missing", summary.members[i].key);
	for (char *line = table; *line == '|'; line = strchr(line, '\n') + 1) {
		char *stop = strchr(line + 1, '|');

		for (char *name = strchr(line, '`'), *past; name && name < stop; name = strchr(past + 1, '`')) {
			past = strchr(++name, '`');
			cr_assert(past && past < stop, "docs/audit.md: %.40s", line);
			cr_expect(record_has(&all, name, (size_t)(past - name)) || record_has(&summary, name, (size_t)(past - name)),
				"docs/audit.md: no record has `%.*s`", (int)(past - name), name);
		}
	}
	free(page);
}
