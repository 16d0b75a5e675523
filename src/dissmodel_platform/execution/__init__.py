"""Record and environment → result: staging, fork servers, outputs."""
