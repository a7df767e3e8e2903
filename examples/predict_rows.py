"""Predict the species of two irises. Needs `red10 train iris.csv --targets all` and `red10 up`, or RED10_MODELS_URL."""

from red10 import ModelStore

model = ModelStore.open().table_model("iris/species")
flower: dict[str, object] = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
for found in model.predict([flower, {**flower, "petal_length": 6.0, "petal_width": None}]).rows():
    print(found["label"], *(f"{name} {share:.0%}" for name, share in found["probabilities"].items()))
