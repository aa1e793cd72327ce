"""Peers of `lakehouse bench vectors`: hnswlib and faiss over the same rows, one search thread.

Arguments: rows.f32 queries.f32 truth.u64 dimensions connectivity ef_construction threads. Prints one
JSON line a peer when it is built; then reads lines `PEER EF` and answers each with one JSON line of
recall and times in microseconds, until the input ends.
"""

import json
import sys
import time

import numpy


def hnswlib_peer(rows, dimensions, connectivity, construction, threads):
    import hnswlib

    index = hnswlib.Index(space="ip", dim=dimensions)
    index.init_index(len(rows), ef_construction=construction, M=connectivity)
    index.add_items(rows, num_threads=threads)

    def search(query, ef, k):
        index.set_ef(ef)
        labels, _ = index.knn_query(query, k=k, num_threads=1)
        return labels[0]

    return search


def faiss_peer(scalar):
    def build(rows, dimensions, connectivity, construction, threads):
        import faiss

        faiss.omp_set_num_threads(threads)
        if scalar:
            index = faiss.IndexHNSWSQ(
                dimensions,
                faiss.ScalarQuantizer.QT_fp16,
                connectivity,
                faiss.METRIC_INNER_PRODUCT,
            )
            index.train(rows)
        else:
            index = faiss.IndexHNSWFlat(dimensions, connectivity, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = construction
        index.add(rows)
        faiss.omp_set_num_threads(1)

        def search(query, ef, k):
            index.hnsw.efSearch = ef
            _, labels = index.search(query, k)
            return labels[0]

        return search

    return build


PEERS = {
    "hnswlib": hnswlib_peer,
    "faiss-f32": faiss_peer(False),
    "faiss-f16": faiss_peer(True),
}


def answer(value):
    print(json.dumps(value), flush=True)


def main():
    rows_file, queries_file, truth_file = sys.argv[1:4]
    dimensions, connectivity, construction, threads = map(int, sys.argv[4:8])
    rows = numpy.fromfile(rows_file, dtype="<f4").reshape(-1, dimensions)
    queries = numpy.fromfile(queries_file, dtype="<f4").reshape(-1, dimensions)
    truth = numpy.fromfile(truth_file, dtype="<u8").reshape(len(queries), -1)
    wanted = [set(row.tolist()) for row in truth]
    searches = {}
    for name, build in PEERS.items():
        started = time.perf_counter()
        try:
            searches[name] = build(rows, dimensions, connectivity, construction, threads)
        except ImportError as error:
            answer({"peer": name, "absent": str(error)})
            continue
        answer({"peer": name, "build_s": time.perf_counter() - started})
    answer({"ready": True})
    for line in sys.stdin:
        name, ef = line.split()
        search, ef, k = searches[name], int(ef), truth.shape[1]
        times, found = [], 0
        for query, near in zip(queries, wanted):
            query = query.reshape(1, -1)
            started = time.perf_counter()
            labels = search(query, ef, k)
            times.append((time.perf_counter() - started) * 1e6)
            found += len(near.intersection(labels.tolist()))
        answer({"recall": found / truth.size, "us": times})


main()
