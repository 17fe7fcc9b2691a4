from django.db import models


class Balance(models.Model):
    topic = models.CharField(max_length=100, primary_key=True)
    cents = models.IntegerField()
