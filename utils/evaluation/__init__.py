"""Evaluation: the validation loop, detection metrics, COCO and CityPersons benchmarks."""
