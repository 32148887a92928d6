/* Shared memory files that Open MPI leaves where mpirun itself was killed and could not clean up. */
#pragma once
#include <stdbool.h>

/* Does any process here map a file whose line in /proc/<pid>/maps has this in it? */
bool tb_leftovers_is_mapped(const char *path);
/* Removes this host's and user's segments in `folder` (/dev/shm) that no process maps, from 10 s of age on; younger
 * ones may be about to be mapped. */
void tb_leftovers_remove(const char *folder);
