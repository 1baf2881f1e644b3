/* Lists of the snapshot, and whole structs by the rows that describe them: made with their defaults, extended, let
 * go. */
#include "conf/conf_priv.h"

#include "adit/base/mem.h"

#include <stdio.h>

static void **array_of(const struct conf_row *list, const void *base)
{
	return (void **)(void *)((char *)(uintptr_t)base + list->offset);
}

static size_t *count_of(const struct conf_row *list, const void *base)
{
	return (size_t *)(void *)((char *)(uintptr_t)base + list->count);
}

size_t conf_list_count(const struct conf_row *list, const void *base)
{
	return *count_of(list, base);
}

void *conf_list_at(const struct conf_row *list, const void *base, size_t i)
{
	return (char *)*array_of(list, base) + i * list->items->size;
}

/* NOLINTBEGIN(misc-no-recursion): no deeper than lists stand within lists in the table */
static void item_fini(const struct conf_row *list, void *item)
{
	char parent[CONF_LABEL_SIZE];

	if (list->items->fini) {
		list->items->fini(item);
		return;
	}
	snprintf(parent, sizeof(parent), "%s[]", list->key);
	conf_list_fini(slice_of(parent), item);
}

void *conf_list_add(const struct conf_row *list, void *base)
{
	size_t n = conf_list_count(list, base);
	char parent[CONF_LABEL_SIZE];
	void *grown, *item;

	/* room is doubled at powers of two, so that a long list is not copied at each step */
	if ((n & (n - 1)) == 0) {
		grown = mem_resize(*array_of(list, base), n ? 2 * n : 1, list->items->size);
		if (!grown)
			return NULL;
		*array_of(list, base) = grown;
	}
	item = conf_list_at(list, base, n);
	memset(item, 0, list->items->size);
	snprintf(parent, sizeof(parent), "%s[]", list->key);
	if (!list->items->parse && !conf_list_defaults(slice_of(parent), item)) {
		item_fini(list, item);
		return NULL;
	}
	*count_of(list, base) = n + 1;
	return item;
}

void conf_list_drop_last(const struct conf_row *list, void *base)
{
	size_t n = conf_list_count(list, base) - 1;

	item_fini(list, conf_list_at(list, base, n));
	*count_of(list, base) = n;
}

void conf_list_clear(const struct conf_row *list, void *base)
{
	while (conf_list_count(list, base) > 0)
		conf_list_drop_last(list, base);
	mem_free(*array_of(list, base));
	*array_of(list, base) = NULL;
}

/* Rows that live in the same struct as the rows of parent: deeper sections, but not the items of lists. */
static bool same_struct(const struct conf_row *row, struct slice parent)
{
	if (parent.n > 0 && (strncmp(row->key, parent.p, parent.n) != 0 || row->key[parent.n] != '.'))
		return false;
	return !strstr(row->key + parent.n, "[]");
}

bool conf_list_defaults(struct slice parent, void *base)
{
	const struct conf_row *row;
	char why[CONF_WHY_SIZE];

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++)
		if (row->standard && row->type != CONF_LIST && same_struct(row, parent) &&
			!conf_types_parse(row, base, slice_of(row->standard), why))
			return false;
	return true;
}

void conf_list_fini(struct slice parent, void *base)
{
	const struct conf_row *row;

	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++) {
		if (!same_struct(row, parent))
			continue;
		if (row->type == CONF_LIST)
			conf_list_clear(row, base);
		if (row->type == CONF_STRING) {
			mem_free(*(char **)(void *)((char *)base + row->offset));
			*(char **)(void *)((char *)base + row->offset) = NULL;
		}
	}
}
/* NOLINTEND(misc-no-recursion) */
