/* The table itself: complete, consistent, and every default is a value that a file could hold. */
#include "unit/conf/load.h"

#include <criterion/criterion.h>
#include <stdlib.h>

Test(conf_table, rows_are_well_formed)
{
	const struct conf_row *row;
	size_t n = 0;

	for (; (row = conf_table_row(n)) != NULL; n++) {
		size_t end = strlen(row->doc);

		cr_assert_eq(conf_table_index(row), n);
		cr_assert_eq(conf_table_key(slice_of(row->key)), row, "%s is there twice", row->key);
		cr_assert_eq(conf_table_find(conf_table_parent(row), slice_of(conf_table_name(row))), row);
		cr_assert(end > 0 && row->doc[end - 1] == '.', "%s: its sentence has no end", row->key);
		cr_assert_eq(row->type == CONF_LIST, row->items != NULL, "%s", row->key);
		cr_assert_eq(row->type == CONF_CHOICE, row->choices != NULL, "%s", row->key);
		cr_assert(!row->option || (row->argument && row->brief), "%s", row->key);
		if (row->type == CONF_COUNT || row->type == CONF_DURATION || row->type == CONF_SIZE || row->type == CONF_RATE)
			cr_assert(row->least > 0 && row->least < row->most && row->standard, "%s", row->key);
		if (row->type == CONF_DURATION)
			cr_assert(row->size == sizeof(unsigned) && row->most < CONF_OFF, "%s", row->key);
		if (row->type == CONF_COUNT)
			cr_assert(row->size == sizeof(size_t) || row->most <= 0xffffffffu, "%s", row->key);
		if (row->type == CONF_LIST && !row->items->parse)
			cr_assert_not_null(conf_table_first(row->key), "%s", row->key);
	}
	cr_assert(n > 60 && n <= CONF_ROWS_MAX);
}

/* Sections that are named by a key exist themselves. */
Test(conf_table, parents_exist)
{
	const struct conf_row *row, *parent;

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++) {
		struct slice path = conf_table_parent(row);

		if (path.n == 0)
			continue;
		if (slice_ends_with(path, slice_of("[]")))
			path.n -= 2;
		parent = conf_table_key(path);
		cr_assert_not_null(parent, "%s has no parent", row->key);
		cr_assert(parent < row, "%s comes before its parent", row->key);
	}
}

Test(conf_table, near)
{
	static const struct {
		const char *parent, *name, *near;
	} rows[] = {
		{ "auth", "htpaswd", "htpasswd" }, { "auth", "HTPASSWD", "htpasswd" }, { "auth", "thorttle", "throttle" },
		{ "auth", "wrongcache", "wrong_cache" }, { "auth", "cash", "cache" }, { "auth", "zzzzzz", NULL },
		{ "", "htpasswd", "auth.htpasswd" }, { "", "lissten", "listen" }, { "", "worker", "workers" },
		{ "listen[]", "adress", "address" }, { "policy.rules[]", "port", "ports" }, { "policy.rules[]", "user", "users" },
		{ "deadlines", "hanshake", "handshake" }, { "", "x", NULL }, { "", "", NULL },
		{ "auth", "a-key-that-is-much-longer-than-any-key-of-the-table-could-be", NULL },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		const char *near = conf_table_near(slice_of(rows[i].parent), slice_of(rows[i].name));

		if (rows[i].near)
			cr_assert(near && strcmp(near, rows[i].near) == 0, "%s: %s", rows[i].name, near ? near : "(none)");
		else
			cr_assert_null(near, "%s: %s", rows[i].name, near);
	}
}

Test(conf_table, distance)
{
	static const struct {
		const char *a, *b;
		unsigned most, distance;
	} rows[] = {
		{ "", "", 3, 0 }, { "a", "", 3, 1 }, { "", "abc", 3, 3 }, { "abc", "abc", 3, 0 }, { "abc", "ABC", 3, 0 },
		{ "abc", "acb", 3, 1 }, { "abcd", "bacd", 3, 1 }, { "abc", "axc", 3, 1 }, { "abc", "abxc", 3, 1 },
		{ "kitten", "sitting", 3, 3 }, { "kitten", "sitting", 2, 3 }, { "abc", "xyz", 2, 3 },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		cr_assert_eq(conf_table_distance(slice_of(rows[i].a), slice_of(rows[i].b), rows[i].most), rows[i].distance, "%s %s",
			rows[i].a, rows[i].b);
		cr_assert_eq(conf_table_distance(slice_of(rows[i].b), slice_of(rows[i].a), rows[i].most), rows[i].distance, "%s %s",
			rows[i].b, rows[i].a);
	}
}
