/* Flight records of a launch (tb_comm_add_recorder): files beside its journal, one a rank, there while it runs and
 * after it failed. What they tell of a failure: which rank it was, and what that rank was doing. */
#pragma once
#include "tb_comm.h"
#include "tb_text.h"

char *tb_flight_prefix(const char *journal); /* of the files' names; tb_free(); NULL: no memory */
void tb_flight_remove(const char *journal, int ranks);
/* `report`: a line a rank; `sentence`: "rank 1 was in allreduce #17 of 1024 f32 (step 4, bucket 2)", "" where nobody is
 * to blame. False: there are no records. */
bool tb_flight_tell(const char *prefix, tb_text *report, char *sentence, size_t bytes, tb_culprit *culprit);
