/* docs/configuration.md has a table of all keys. Each of its rows is what the table of options says, so the page can say
 * neither more nor less than the program. */
#include "unit/conf/load.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static const char begin[] = "<!-- keys: begin -->\n", end[] = "<!-- keys: end -->\n";

/* The row of the page for one row of the table. */
static char *page_row(const struct conf_row *row)
{
	char allowed[CONF_WHY_SIZE], *text = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&text, &size);

	fprintf(f, "| `%s` | %s | ", row->key, conf_types_allowed(row, allowed, sizeof(allowed)));
	fprintf(f, row->standard ? "`%s` | " : "| ", row->standard);
	fprintf(f, "%s%s%s", row->doc, row->flags & CONF_REQUIRED ? " Required." : "",
		row->flags & CONF_RESTART ? " Needs a restart." : "");
	if (row->option)
		fprintf(f, " Option: `%s`.", row->option);
	fputs(" |\n", f);
	fclose(f);
	return text;
}

Test(conf_docs, table_of_keys)
{
	char *page = load_file("docs/configuration.md"), *at = strstr(page, begin), *stop = strstr(page, end);
	const struct conf_row *row;
	size_t rows = 0, wanted = 0;

	cr_assert(at && stop && at < stop, "docs/configuration.md: no table between %s and %s", begin, end);
	*stop = '\0';
	for (size_t i = 0; (row = conf_table_row(i)) != NULL; i++) {
		char *line;

		if (row->type == CONF_SECTION)
			continue;
		line = page_row(row);
		wanted++;
		cr_expect(strstr(at, line) != NULL, "docs/configuration.md: write this row:\n%s", line);
		free(line);
	}
	for (char *p = at; (p = strstr(p, "\n| `")) != NULL; p++)
		rows++;
	cr_expect_eq(rows, wanted, "docs/configuration.md: %zu rows, there are %zu keys", rows, wanted);
	free(page);
}
