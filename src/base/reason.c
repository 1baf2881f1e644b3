/* The table of reasons. */
#include "adit/base/reason.h"

#include "adit/base/obj.h"

static const struct reason_row rows[REASON_COUNT] = {
#define REASON(id, name, status, token, level, sentence) { name, status, token, REASON_LEVEL_##level, sentence },
#include "adit/base/reason.def"
#undef REASON
};

const struct reason_row *reason_row(enum reason r)
{
	ADIT_ASSERT((unsigned)r < REASON_COUNT);
	return &rows[r];
}

const char *reason_name(enum reason r)
{
	return reason_row(r)->name;
}
