/* Time: monotonic milliseconds for deadlines, wall-clock for records. */
#ifndef ADIT_BASE_CLOCK_H
#define ADIT_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* CLOCK_MONOTONIC in ms / us. Never 0. */
uint64_t clock_mono_ms(void);
uint64_t clock_mono_us(void);

/* Wall clock in us since the epoch. */
int64_t clock_wall_us(void);

enum { CLOCK_TEXT_SIZE = 32 };
/* RFC 3339 in UTC with microseconds, "2026-11-21T10:00:00.123456Z"; returns buf. */
const char *clock_text(int64_t wall_us, char buf[static CLOCK_TEXT_SIZE]);

#endif
