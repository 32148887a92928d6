#!/bin/sh
# Open MPI as a peer of `tb bench allreduce`: mpi_allreduce.sh MECHANISM RANKS KIB PROGRAM
# MECHANISM: how its shared-memory transport copies: cma (from the other process's memory, once) or none (in and out).
# What an mpirun around us has set would make this one join it.
mechanism=$1 ranks=$2 kib=$3 program=$4
for name in $(env | sed -n 's/^\(\(OMPI\|PMIX\|PMI\)_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
exec mpirun --bind-to none --oversubscribe --mca btl self,vader --mca btl_vader_single_copy_mechanism "$mechanism" \
    -n "$ranks" "$program" mpi_sums "$kib"
